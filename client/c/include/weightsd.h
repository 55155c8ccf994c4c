/*
 * libweightsd: model weights as memory that processes share, lent by the daemon weightsd.
 *
 * Handles are opaque, and freed by the function that names them. A null handle, or one of another kind, is an error and
 * not a crash; one that was freed is a mistake that cannot be caught. Texts are UTF-8 with a null at the end. A pointer
 * that a function returns, or that is in a struct that it returns, lives as long as the comment there says. No function
 * throws or unwinds. There are no globals: each connection has a thread of its own, and functions may be called from any
 * thread, each handle by several at once, except that the call that frees it must be the last one.
 *
 * Structs of options begin with a macro that sets their size and zeroes the rest, which means the defaults:
 *
 *     weightsd_load_options options = WEIGHTSD_LOAD_OPTIONS;
 *     options.layout = WEIGHTSD_LAYOUT_SOURCE;
 *
 * Made by cbindgen from client/c/src. Do not edit: change the source, and run
 *     WEIGHTSD_WRITE_HEADER=1 cargo test -p weightsd-c --test header
 */

#ifndef WEIGHTSD_H
#define WEIGHTSD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In C++ write `weightsd_load_options options{};` and set `size`, or use weightsd.hpp. */
#define WEIGHTSD_CONNECT_OPTIONS { .size = sizeof(weightsd_connect_options) }
#define WEIGHTSD_MODEL_OPTIONS { .size = sizeof(weightsd_model_options) }
#define WEIGHTSD_QUANTISATION { .size = sizeof(weightsd_quantisation) }
#define WEIGHTSD_LOAD_OPTIONS { .size = sizeof(weightsd_load_options) }

// Number of the binary interface. It changes when a program that was compiled with an older header would break; new
// functions, and new fields at the end of a struct, leave it.
#define WEIGHTSD_ABI 1

// What kind of failure it is. Later versions may have more kinds.
typedef enum {
    // There was none.
    WEIGHTSD_CODE_OK = 0,
    // A pointer, handle, text or option cannot be used. Nothing was asked of the daemon.
    WEIGHTSD_CODE_ARGUMENT = 1,
    // There is no daemon, or it cannot be reached.
    WEIGHTSD_CODE_NO_DAEMON = 2,
    // The daemon speaks another version of the interface.
    WEIGHTSD_CODE_OTHER_PROTOCOL = 3,
    // The daemon took too long.
    WEIGHTSD_CODE_DEADLINE = 4,
    // The daemon refused; `reason` says why.
    WEIGHTSD_CODE_REFUSED = 5,
    // The connection broke during the call.
    WEIGHTSD_CODE_DISCONNECTED = 6,
    // The daemon's answer contradicts itself.
    WEIGHTSD_CODE_PROTOCOL = 7,
    // A file that is lent cannot be received or mapped.
    WEIGHTSD_CODE_FILES = 8,
    // The system has no memory, address space or threads left.
    WEIGHTSD_CODE_OUT_OF_MEMORY = 9,
    // The caller gave the call up.
    WEIGHTSD_CODE_CANCELLED = 10,
    // A fault of this library.
    WEIGHTSD_CODE_PANIC = 11,
} weightsd_code;

// What a load is doing.
typedef enum {
    // Something that this library does not know.
    WEIGHTSD_PHASE_OTHER = 0,
    // Finding the model and its files.
    WEIGHTSD_PHASE_RESOLVE = 1,
    // Opening files and reading their headers.
    WEIGHTSD_PHASE_OPEN = 2,
    // Planning and auditing.
    WEIGHTSD_PHASE_AUDIT = 3,
    // Downloading what is missing.
    WEIGHTSD_PHASE_DOWNLOAD = 4,
    // Comparing files with their hashes.
    WEIGHTSD_PHASE_VERIFY = 5,
    // Computing tensors.
    WEIGHTSD_PHASE_DERIVE = 6,
} weightsd_phase;

// The type of a tensor's elements; the names are those of safetensors.
typedef enum {
    // A type that this library has no number for; `dtype_name` says which.
    WEIGHTSD_DTYPE_OTHER = 0,
    WEIGHTSD_DTYPE_BOOL = 1,
    WEIGHTSD_DTYPE_U8 = 2,
    WEIGHTSD_DTYPE_I8 = 3,
    WEIGHTSD_DTYPE_U16 = 4,
    WEIGHTSD_DTYPE_I16 = 5,
    WEIGHTSD_DTYPE_U32 = 6,
    WEIGHTSD_DTYPE_I32 = 7,
    WEIGHTSD_DTYPE_U64 = 8,
    WEIGHTSD_DTYPE_I64 = 9,
    WEIGHTSD_DTYPE_F16 = 10,
    WEIGHTSD_DTYPE_BF16 = 11,
    WEIGHTSD_DTYPE_F32 = 12,
    WEIGHTSD_DTYPE_F64 = 13,
    WEIGHTSD_DTYPE_C64 = 14,
    WEIGHTSD_DTYPE_F8E5M2 = 15,
    WEIGHTSD_DTYPE_F8E4M3 = 16,
    WEIGHTSD_DTYPE_F8E8M0 = 17,
    WEIGHTSD_DTYPE_F8E4M3FNUZ = 18,
    WEIGHTSD_DTYPE_F8E5M2FNUZ = 19,
    WEIGHTSD_DTYPE_F4 = 20,
    WEIGHTSD_DTYPE_F6E2M3 = 21,
    WEIGHTSD_DTYPE_F6E3M2 = 22,
} weightsd_dtype;

// The part of a tensor in a layer that is stored in a format that MLX does not have.
typedef enum {
    // Something that this library does not know.
    WEIGHTSD_CODING_ROLE_UNKNOWN = 0,
    // The codes; of a computed tensor the numbers that they stand for.
    WEIGHTSD_CODING_ROLE_WEIGHT = 1,
    // The numbers by which codes are multiplied.
    WEIGHTSD_CODING_ROLE_SCALES = 2,
    // A factor on the scales.
    WEIGHTSD_CODING_ROLE_GLOBAL_SCALE = 3,
    // The numbers that are added to the products.
    WEIGHTSD_CODING_ROLE_ZERO_POINTS = 4,
    // One on which the layer's weight does not depend: its mark, or the scale of its input.
    WEIGHTSD_CODING_ROLE_OTHER = 5,
} weightsd_coding_role;

// How the codes of a quantised layer stand for numbers; the names are MLX's.
typedef enum {
    // In a request the same as AFFINE; in an answer a mode that this library does not know.
    WEIGHTSD_MODE_DEFAULT = 0,
    // Integers with a scale and a bias for each group.
    WEIGHTSD_MODE_AFFINE = 1,
    // 4-bit floats (E2M1), with one E8M0 scale for each 32 of them.
    WEIGHTSD_MODE_MXFP4 = 2,
    // 8-bit floats (E4M3), with one E8M0 scale for each 32 of them.
    WEIGHTSD_MODE_MXFP8 = 3,
    // 4-bit floats (E2M1), with one E4M3 scale for each 16 of them.
    WEIGHTSD_MODE_NVFP4 = 4,
} weightsd_mode;

// Where a segment's bytes come from.
typedef enum {
    // Something that this library does not know.
    WEIGHTSD_SEGMENT_KIND_OTHER = 0,
    // The checkpoint's own file.
    WEIGHTSD_SEGMENT_KIND_CHECKPOINT = 1,
    // A file that the daemon computed. Every tensor in it begins at a page.
    WEIGHTSD_SEGMENT_KIND_DERIVED = 2,
} weightsd_segment_kind;

// What a notice is about.
typedef enum {
    // Something that this library does not know; the message says what.
    WEIGHTSD_NOTICE_KIND_OTHER = 0,
    // The daemon stops; what is mapped stays readable.
    WEIGHTSD_NOTICE_KIND_SHUTTING_DOWN = 1,
    // Somebody changed a file under the component; its bytes can no longer be trusted.
    WEIGHTSD_NOTICE_KIND_FILE_CHANGED = 2,
    // A file under the component does not have its hash; its bytes cannot be trusted.
    WEIGHTSD_NOTICE_KIND_CORRUPT = 3,
    // A file under the component was deleted, moved or replaced. What is mapped keeps its bytes; the next load finds what
    // is there now. `FileChanged` may follow.
    WEIGHTSD_NOTICE_KIND_FILE_GONE = 4,
    // There is a lease again, on the same component, from the daemon that serves now.
    WEIGHTSD_NOTICE_KIND_LEASED_AGAIN = 5,
    // There is no lease any more. What is mapped stays readable, and no notice follows.
    WEIGHTSD_NOTICE_KIND_LEASE_LOST = 6,
    // The component's bytes are not, or not all, locked in memory.
    WEIGHTSD_NOTICE_KIND_NOT_PINNED = 7,
} weightsd_notice_kind;

// What a failed audit does.
typedef enum {
    // The same as STRICT.
    WEIGHTSD_AUDIT_POLICY_DEFAULT = 0,
    // It refuses the load.
    WEIGHTSD_AUDIT_POLICY_STRICT = 1,
    // Nothing: the report says what is wrong.
    WEIGHTSD_AUDIT_POLICY_REPORT_ONLY = 2,
} weightsd_audit_policy;

// The dtype of floats that are not part of a quantised layer.
typedef enum {
    // The family's usual one.
    WEIGHTSD_FLOAT_DEFAULT = 0,
    // Each as it is in the checkpoint.
    WEIGHTSD_FLOAT_AS_STORED = 1,
    // bfloat16.
    WEIGHTSD_FLOAT_BF16 = 2,
    // IEEE half.
    WEIGHTSD_FLOAT_F16 = 3,
    // IEEE single.
    WEIGHTSD_FLOAT_F32 = 4,
} weightsd_float;

// How this process gets the files.
typedef enum {
    // As descriptors from the daemon. They stay the same file even if the path changes.
    WEIGHTSD_HANDOFF_DESCRIPTORS = 0,
    // By opening the daemon's paths and comparing the identity of each file.
    WEIGHTSD_HANDOFF_PATH = 1,
} weightsd_handoff;

// How long the caller holds the component.
typedef enum {
    // The same as STREAM.
    WEIGHTSD_HOLD_DEFAULT = 0,
    // Until it is released or freed.
    WEIGHTSD_HOLD_STREAM = 1,
    // Not at all: the component is mapped and not leased, and no notice comes.
    WEIGHTSD_HOLD_NONE = 2,
} weightsd_hold;

// Names and memory order of the tensors.
typedef enum {
    // MLX.
    WEIGHTSD_LAYOUT_DEFAULT = 0,
    // Module names of the family's MLX modules; convolution kernels in OHWI order.
    WEIGHTSD_LAYOUT_MLX = 1,
    // Names and shapes of the family's published checkpoints, in the order of the file.
    WEIGHTSD_LAYOUT_SOURCE = 2,
    // Names of the modules of mflux; convolution kernels in OHWI order. Of families that say what mflux calls them.
    WEIGHTSD_LAYOUT_MFLUX = 3,
} weightsd_layout;

// What is done with quantised layers after adapters were merged into them.
typedef enum {
    // The same as REQUANTISED.
    WEIGHTSD_MERGED_DEFAULT = 0,
    // They are quantised again.
    WEIGHTSD_MERGED_REQUANTISED = 1,
    // They stay plain.
    WEIGHTSD_MERGED_PLAIN = 2,
} weightsd_merged;

// Whether the hub may be asked.
typedef enum {
    // As the variables of this process's environment say (`HF_HUB_OFFLINE`).
    WEIGHTSD_NETWORK_ENVIRONMENT = 0,
    // It may.
    WEIGHTSD_NETWORK_ALLOWED = 1,
    // It may not: what the cache knows is the answer.
    WEIGHTSD_NETWORK_OFFLINE = 2,
} weightsd_network;

// When the daemon hashes files that were on this machine before.
typedef enum {
    // The same as AFTERWARDS.
    WEIGHTSD_VERIFICATION_DEFAULT = 0,
    // Once, after the component is lent.
    WEIGHTSD_VERIFICATION_AFTERWARDS = 1,
    // Once, before it is lent.
    WEIGHTSD_VERIFICATION_BEFORE = 2,
} weightsd_verification;

// What ends loads early, from any thread.
typedef struct weightsd_cancellation weightsd_cancellation;

// A component: tensors in mapped files, and the lease that holds them in the daemon. Everything that its functions return
// lives until `weightsd_component_free`, also after the lease has ended and the daemon is gone. Several threads may use one
// component at once.
typedef struct weightsd_component weightsd_component;

// A connection to the daemon. It connects again by itself after the daemon restarted. All functions that take one may be
// called from several threads at once.
typedef struct weightsd_connection weightsd_connection;

// Why a call failed. The texts are UTF-8, never null, and live until `weightsd_error_free`.
typedef struct {
    // The kind of failure.
    weightsd_code code;
    // Whether the same call may succeed later without a change.
    bool retryable;
    // What happened, in one sentence.
    const char *message;
    // The daemon's reason, such as "AUDIT_FAILED" (`ErrorReason` in proto/weights/v1/error.proto, without its prefix);
    // empty when it is not the daemon that refused.
    const char *reason;
    // A step that can help; empty when there is none.
    const char *hint;
    // The path, spec, component, tensor or argument that the error is about; empty when there is none.
    const char *resource;
    // All that the daemon says, as the JSON of `weights.v1.ErrorDetail`, with the report of a failed audit; empty when it
    // is not the daemon that refused.
    const char *detail_json;
} weightsd_error;

// Options of `weightsd_connect`. Begin with WEIGHTSD_CONNECT_OPTIONS.
typedef struct {
    // `sizeof` this struct.
    size_t size;
    // Path of the daemon's socket; null: where this process's environment says (`WEIGHTSD_SOCKET`, then the usual place).
    const char *socket;
    // How long connecting, and every call that has no deadline of its own, may take, in milliseconds; 0: 5000.
    uint64_t deadline_ms;
} weightsd_connect_options;

// Which files a model's name means. Begin with WEIGHTSD_MODEL_OPTIONS.
typedef struct {
    // `sizeof` this struct.
    size_t size;
    // Revision (branch, tag or commit) of a Hugging Face id.
    const char *revision;
    // Variant of the weights, such as "fp16".
    const char *variant;
    // The Hugging Face cache to look in; null: as the environment says.
    const char *hub_cache;
    // The directory that a relative path starts from; null: the current one.
    const char *working_directory;
    // Globs over the paths of weight files; only weights that match one count.
    const char *const *patterns;
    // How many patterns there are.
    size_t pattern_count;
    // A model whose configs count for weights that have none.
    const char *base;
    // A file, directory or id whose tensors replace all or some of the component's.
    const char *overlay;
    // A `weightsd_network`.
    uint32_t network;
} weightsd_model_options;

// How layers are quantised. Begin with WEIGHTSD_QUANTISATION.
typedef struct {
    // `sizeof` this struct.
    size_t size;
    // A `weightsd_mode`.
    uint32_t mode;
    // Bits of a code; 0: the mode's default.
    uint32_t bits;
    // Weights that share a scale; 0: the mode's default.
    uint32_t group_size;
    // Globs over names of layers; none: the family's rule.
    const char *const *only;
    // How many there are.
    size_t only_count;
    // Globs over layers that stay as they are.
    const char *const *excluding;
    // How many there are.
    size_t excluding_count;
} weightsd_quantisation;

// An adapter that is added to the weights.
typedef struct {
    // A `.safetensors` file, a directory that holds one, or a Hugging Face id.
    const char *model;
    // A glob that chooses one of several files; null: there is one.
    const char *pattern;
    // Factor on its changes, if `has_scale`; negative subtracts them.
    double scale;
    // Whether `scale` counts. Without it the factor is 1.
    bool has_scale;
} weightsd_adapter;

// How far a load is. Lives until the callback returns.
typedef struct {
    // What is being done.
    weightsd_phase phase;
    // Requests that wait for this load, this one included.
    uint32_t sharers;
    // Path of the current file, below the model's directory; empty when there is none.
    const char *file;
    // Files done.
    uint32_t files_done;
    // Files in all; 0 while unknown.
    uint32_t files_total;
    // Bytes done in this phase.
    uint64_t bytes_done;
    // Bytes in all in this phase; 0 while unknown.
    uint64_t bytes_total;
    // Bytes a second, over the last seconds; 0 while unknown.
    uint64_t bytes_per_second;
    // Remaining time at that rate, in milliseconds; -1 while unknown.
    int64_t remaining_ms;
} weightsd_progress;

// Hears of a load's progress. Returns whether the load goes on. It may call any function of this library but those that
// free what the load uses. No exception and no `longjmp` may leave it.
typedef bool (*weightsd_on_progress)(const weightsd_progress *progress, void *context);

// Options of `weightsd_load`. Begin with WEIGHTSD_LOAD_OPTIONS. Everything that it points at must live until the call
// returns.
typedef struct {
    // `sizeof` this struct.
    size_t size;
    // Which files the model's name means; null: the defaults.
    const weightsd_model_options *model;
    // How layers are quantised; null: they are left as they are.
    const weightsd_quantisation *quantise;
    // Adapters, in the order in which they are added.
    const weightsd_adapter *adapters;
    // How many there are.
    size_t adapter_count;
    // A `weightsd_layout`.
    uint32_t layout;
    // A `weightsd_float`.
    uint32_t dtype;
    // A `weightsd_merged`.
    uint32_t merged;
    // A `weightsd_audit_policy`.
    uint32_t audit_policy;
    // A `weightsd_verification`.
    uint32_t verification;
    // A `weightsd_hold`.
    uint32_t hold;
    // A `weightsd_handoff`.
    uint32_t handoff;
    // Whether quantised layers are lent as plain ones. Not together with `quantise`.
    bool dequantise;
    // Whether `keep_alive_ms` counts. Without it the daemon's own time does.
    bool has_keep_alive;
    // How long the component should stay warm after the last lease, in milliseconds. The daemon limits it.
    uint64_t keep_alive_ms;
    // How long the daemon may stay silent, in milliseconds; 0: 120000.
    uint64_t deadline_ms;
    // This client's name in lists and logs; null: the program's name.
    const char *client_name;
    // Called for every step that the daemon reports, on the thread that called; null: nobody is told.
    weightsd_on_progress on_progress;
    // Passed to `on_progress`.
    void *context;
    // What ends the load early; null: nothing.
    const weightsd_cancellation *cancellation;
} weightsd_load_options;

// A layer's coding: how its numbers are stored, and a tensor's part in that. Lives as long as its tensor.
typedef struct {
    // The name of the format, such as "scaled FP8".
    const char *format;
    // One code: "E4M3", "E5M2", "I8", "I4", "U4" or "E2M1".
    const char *codes;
    // What says so: `.comfy_quant`, `_quantization_metadata`, `scaled_fp8`, its config or its tensors.
    const char *provenance;
    // The tensor's part in the layer.
    weightsd_coding_role role;
    // Columns of the groups in which the weight was rotated before it was quantised; 0 when it was not.
    uint64_t rotation;
    // Rows and columns that share a scale, `block_rank` of them: the layer's own when all of it does.
    const uint64_t *block;
    // Number of sides of a block; 0 when there is no scale.
    size_t block_rank;
    // Dimensions of the layer's weight; `rank` of them.
    const uint64_t *shape;
    // Number of dimensions.
    size_t rank;
} weightsd_coding;

// One tensor. It and everything that it points at live until `weightsd_component_free`.
typedef struct {
    // Its name in the layout that was asked for, in UTF-8.
    const char *name;
    // The name's length in bytes, without the null at its end.
    size_t name_length;
    // Its name in the checkpoint.
    const char *source_name;
    // The type of its elements.
    weightsd_dtype dtype;
    // Whether its first byte is aligned for its type. If not, copy its bytes before reading elements.
    bool is_aligned;
    // The type's name in safetensors, such as "BF16".
    const char *dtype_name;
    // Its dimensions, row-major; `rank` of them.
    const uint64_t *shape;
    // Number of dimensions; 0 for a scalar.
    size_t rank;
    // Its bytes, little endian, row-major, without gaps, in pages that all processes share. Read only: writing ends the
    // process.
    const void *data;
    // Number of its bytes.
    size_t length;
    // Number of its segment.
    size_t segment;
    // Where its bytes begin in that segment.
    uint64_t offset;
    // The coding of the layer that it is a part of; null unless the layer is stored in a format that MLX does not have and
    // that the daemon makes plain on demand.
    const weightsd_coding *coding;
} weightsd_tensor;

// A layer that is quantised in a format of MLX. Lives as long as its tensors.
typedef struct {
    // The common beginning of its tensors' names, without the dot.
    const char *name;
    // How its codes stand for numbers.
    weightsd_mode mode;
    // Bits of a code.
    uint32_t bits;
    // Weights that share a scale.
    uint32_t group_size;
    // Dimensions of the weight before it was quantised; `rank` of them.
    const uint64_t *shape;
    // Number of dimensions.
    size_t rank;
    // The packed codes.
    const weightsd_tensor *weight;
    // One number for each group.
    const weightsd_tensor *scales;
    // A second number for each group; null unless the mode is AFFINE.
    const weightsd_tensor *biases;
    // A factor on the scales; null where there is none.
    const weightsd_tensor *global_scale;
} weightsd_layer;

// The view of a segment: its file, mapped whole. Lives as long as its tensors.
typedef struct {
    // Its path when it was lent.
    const char *path;
    // Its first byte, at the beginning of a page. Read only.
    const void *data;
    // Its length in bytes.
    size_t length;
    // Where its bytes come from.
    weightsd_segment_kind kind;
} weightsd_view;

// Something that the holder of a component should know. Lives until `weightsd_notice_free`.
typedef struct {
    // What it is about.
    weightsd_notice_kind kind;
    // The same in words, in UTF-8.
    const char *message;
} weightsd_notice;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Number of the library's binary interface. A program that opens the library at run time compares it with `WEIGHTSD_ABI`.
uint32_t weightsd_abi(void);

// Version of the library, such as "0.1.0". Valid for ever.
const char *weightsd_version(void);

// Frees an error. Null is allowed.
//
// Must hold:
// `error` came from this library and is not used again.
void weightsd_error_free(weightsd_error *error);

// Makes what can end loads early: name it in their options. Free it with `weightsd_cancellation_free`. Null when memory
// has run out.
weightsd_cancellation *weightsd_cancellation_new(void);

// Ends every load that names `cancellation`, now and later, with WEIGHTSD_CODE_CANCELLED. Any thread may call it.
//
// Must hold:
// `cancellation` is null or was not freed.
void weightsd_cancel(const weightsd_cancellation *cancellation);

// Frees a cancellation; loads that named it are not ended by that. Null is allowed.
//
// Must hold:
// `cancellation` is not used again.
void weightsd_cancellation_free(weightsd_cancellation *cancellation);

// Connects to the daemon, and checks that it speaks this library's version of the interface. Each connection has one thread,
// which sleeps while nothing happens.
//
// `options` may be null. `*result` is the connection, to be closed with `weightsd_disconnect`. `error` may be null; `*error` is null
// after success, and otherwise to be freed with `weightsd_error_free`.
//
// Must hold:
// The pointers are null or valid.
weightsd_code weightsd_connect(const weightsd_connect_options *options,
                               weightsd_connection **result,
                               weightsd_error **error);

// Closes a connection and frees it. Components that were loaded over it keep their leases. Null is allowed.
//
// Must hold:
// `connection` is not used by any thread, now or later.
void weightsd_disconnect(weightsd_connection *connection);

// Loads a component, or joins a load that is under way, and maps its files. Waits until that is done. Loads over one
// connection may run on several threads at once.
//
// `spec` is a path, or a Hugging Face id with or without a revision; `component` is "transformer", "vae" and so on; `options`
// may be null. `*result` is the component, to be freed with `weightsd_component_free`; it may outlive the connection. `error` may
// be null; `*error` is null after success, and otherwise to be freed with `weightsd_error_free`.
//
// Must hold:
// The texts end with a null. `connection` was not freed, and is not until this returns; nor is what `options` points at.
weightsd_code weightsd_load(const weightsd_connection *connection,
                            const char *spec,
                            const char *component,
                            const weightsd_load_options *options,
                            weightsd_component **result,
                            weightsd_error **error);

// Ends the lease and keeps the mappings: every pointer stays valid. The daemon may then drop the component, and no notice
// comes any more; a thread that waits for one is woken. Does not wait for the daemon.
//
// Must hold:
// `component` is null or was not freed.
void weightsd_release(const weightsd_component *component);

// Frees a component: ends its lease and unmaps its files. Null is allowed.
//
// Must hold:
// Neither `component` nor anything that came from it is used by any thread, now or later.
void weightsd_component_free(weightsd_component *component);

// Number of tensors.
//
// Must hold:
// `component` is null or was not freed.
size_t weightsd_tensor_count(const weightsd_component *component);

// A tensor by its number, in the order of the names; null beyond the last.
//
// Must hold:
// `component` is null or was not freed.
const weightsd_tensor *weightsd_tensor_at(const weightsd_component *component, size_t index);

// A tensor by its name; null when there is none.
//
// Must hold:
// `component` is null or was not freed; `name` is null or ends with a null.
const weightsd_tensor *weightsd_tensor_named(const weightsd_component *component, const char *name);

// Number of layers that are quantised in a format of MLX.
//
// Must hold:
// `component` is null or was not freed.
size_t weightsd_layer_count(const weightsd_component *component);

// A quantised layer by its number, in the order of the names; null beyond the last.
//
// Must hold:
// `component` is null or was not freed.
const weightsd_layer *weightsd_layer_at(const weightsd_component *component, size_t index);

// Number of views: one for each segment, with the segment's number.
//
// Must hold:
// `component` is null or was not freed.
size_t weightsd_view_count(const weightsd_component *component);

// The view of a segment, by the segment's number; null beyond the last.
//
// Must hold:
// `component` is null or was not freed.
const weightsd_view *weightsd_view_at(const weightsd_component *component, size_t index);

// All that the daemon said of the component, as the JSON of `weights.v1.Component`: id, model with its commit, config, audit,
// verification, assumptions, what adapters changed, how long each phase took. Null for a null handle.
//
// Must hold:
// `component` is null or was not freed.
const char *weightsd_report(const weightsd_component *component);

// Waits for the next notice about a component.
//
// `timeout_ms` limits the wait, and a negative one does not. After success `*notice` is the notice, to be freed with
// `weightsd_notice_free`, or null when no more will come: the lease was released or lost. A daemon that is gone ends no wait,
// since the library asks the next one for the lease. WEIGHTSD_CODE_DEADLINE says that the time has passed. Each notice goes to
// one of the threads that wait. `error` as for `weightsd_load`.
//
// Must hold:
// `component` is null or not freed until this returns; the other pointers are null or valid.
weightsd_code weightsd_next_notice(const weightsd_component *component,
                                   int64_t timeout_ms,
                                   weightsd_notice **notice,
                                   weightsd_error **error);

// Frees a notice. Null is allowed.
//
// Must hold:
// `notice` came from this library and is not used again.
void weightsd_notice_free(weightsd_notice *notice);

// Says what a spec means now: kind, commit, components, files, what is missing. Opens no weight file.
//
// `options` may be null; base and overlay have no meaning here and are refused. `*json` is the JSON of
// `weights.v1.ResolveResponse`, to be freed with `weightsd_text_free`. `error` as for `weightsd_load`.
//
// Must hold:
// The pointers are null or valid, and the texts end with a null.
weightsd_code weightsd_resolve(const weightsd_connection *connection,
                               const char *spec,
                               const weightsd_model_options *options,
                               char **json,
                               weightsd_error **error);

// Compares a component with its family's catalogue, without loading it; every component when `component` is null.
//
// `options` may be null. `*json` is the JSON of `weights.v1.AuditResponse`, to be freed with `weightsd_text_free`. `error` as for
// `weightsd_load`.
//
// Must hold:
// The pointers are null or valid, and the texts end with a null.
weightsd_code weightsd_audit(const weightsd_connection *connection,
                             const char *spec,
                             const char *component,
                             const weightsd_model_options *options,
                             char **json,
                             weightsd_error **error);

// Frees a text that a function of this library gave to the caller. Null is allowed.
//
// Must hold:
// `text` came from such a function and is not used again.
void weightsd_text_free(char *text);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* WEIGHTSD_H */
