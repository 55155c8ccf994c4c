/* What the tests in c.rs run: check WHAT SOCKET MODEL COMPONENT [MANIFEST, COUNT or COMPONENT]. Ends with 0, or says what is wrong.
 *
 * A manifest says what the files hold, from whoever wrote them: one line for each tensor, with its name, dtype, file,
 * first byte, length, rank and dimensions.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <weightsd.h>

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "check.c:%d: %s: ", __LINE__, #condition);                                                 \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fprintf(stderr, "\n");                                                                                     \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static const char *socket_path, *model, *component_name, *argument;

static weightsd_connection *connect_to_it(void)
{
    weightsd_connect_options options = WEIGHTSD_CONNECT_OPTIONS;
    weightsd_connection *connection = NULL;
    weightsd_error *error = NULL;
    options.socket = socket_path;
    options.deadline_ms = 60000;
    CHECK(weightsd_connect(&options, &connection, &error) == WEIGHTSD_CODE_OK, "%s", error->message);
    CHECK(error == NULL && connection != NULL, "success leaves a connection and no error");
    return connection;
}

static weightsd_load_options as_stored(void)
{
    weightsd_load_options options = WEIGHTSD_LOAD_OPTIONS;
    options.layout = WEIGHTSD_LAYOUT_SOURCE;
    options.dtype = WEIGHTSD_FLOAT_AS_STORED;
    return options;
}

static weightsd_component *load(const weightsd_connection *connection)
{
    weightsd_load_options options = as_stored();
    weightsd_component *component = NULL;
    weightsd_error *error = NULL;
    weightsd_code code = weightsd_load(connection, model, component_name, &options, &component, &error);
    CHECK(code == WEIGHTSD_CODE_OK, "%s (%s)", error->message, error->hint);
    return component;
}

/* Compares every tensor with the bytes of its file, as the manifest places them. */
static size_t compare(const weightsd_component *component)
{
    char name[512], dtype[32], path[1024];
    unsigned long long first, length, rank, dimension;
    size_t count = 0;
    FILE *manifest = fopen(argument, "r");
    CHECK(manifest != NULL, "%s", argument);
    while (fscanf(manifest, "%511s %31s %1023s %llu %llu %llu", name, dtype, path, &first, &length, &rank) == 6) {
        const weightsd_tensor *tensor = weightsd_tensor_named(component, name);
        CHECK(tensor != NULL, "%s is missing", name);
        CHECK(strcmp(tensor->name, name) == 0 && tensor->name_length == strlen(name), "%s", tensor->name);
        CHECK(strcmp(tensor->dtype_name, dtype) == 0, "%s: %s, not %s", name, tensor->dtype_name, dtype);
        CHECK(tensor->length == length && tensor->rank == rank, "%s", name);
        for (size_t at = 0; at < rank; at++)
            CHECK(fscanf(manifest, "%llu", &dimension) == 1 && tensor->shape[at] == dimension, "%s", name);
        CHECK(tensor->segment < weightsd_view_count(component), "%s", name);
        const weightsd_view *segment = weightsd_view_at(component, tensor->segment);
        CHECK((const char *)segment->data + tensor->offset == (const char *)tensor->data, "%s", name);
        CHECK(tensor->offset + tensor->length <= segment->length, "%s", name);
        char *bytes = malloc(length + 1);
        FILE *file = fopen(path, "rb");
        CHECK(bytes != NULL && file != NULL && fseek(file, (long)first, SEEK_SET) == 0, "%s", path);
        CHECK(fread(bytes, 1, length, file) == length, "%s", path);
        CHECK(memcmp(bytes, tensor->data, length) == 0, "%s has other bytes than its file", name);
        fclose(file);
        free(bytes);
        count++;
    }
    fclose(manifest);
    CHECK(count > 0 && count == weightsd_tensor_count(component), "%zu tensors", weightsd_tensor_count(component));
    return count;
}

static void values(void)
{
    weightsd_connection *connection = connect_to_it();
    weightsd_component *component = load(connection);
    size_t count = compare(component);
    for (size_t at = 0; at < count; at++) {
        const weightsd_tensor *tensor = weightsd_tensor_at(component, at);
        CHECK(tensor == weightsd_tensor_named(component, tensor->name), "%s", tensor->name);
        CHECK(at == 0 || strcmp(weightsd_tensor_at(component, at - 1)->name, tensor->name) < 0, "%s", tensor->name);
    }
    CHECK(weightsd_tensor_at(component, count) == NULL, "there is nothing beyond the last");
    CHECK(weightsd_tensor_named(component, "no.such.tensor") == NULL, "there is no such tensor");
    const char *report = weightsd_report(component);
    CHECK(strstr(report, "\"tensor_count\":") != NULL && strstr(report, "\"audit\":{") != NULL, "%s", report);
    CHECK(report == weightsd_report(component), "the report is one text");
    /* The connection goes first, the lease second; the bytes stay. */
    weightsd_disconnect(connection);
    weightsd_release(component);
    weightsd_release(component);
    compare(component);
    weightsd_component_free(component);
    printf("%zu tensors\n", count);
}

static void layers(void)
{
    weightsd_connection *connection = connect_to_it();
    weightsd_quantisation quantisation = WEIGHTSD_QUANTISATION;
    weightsd_load_options options = WEIGHTSD_LOAD_OPTIONS;
    weightsd_component *component = NULL;
    weightsd_error *error = NULL;
    quantisation.bits = 4;
    quantisation.group_size = 32;
    options.quantise = &quantisation;
    weightsd_code code = weightsd_load(connection, model, component_name, &options, &component, &error);
    CHECK(code == WEIGHTSD_CODE_OK, "%s", error->message);
    size_t count = weightsd_layer_count(component);
    CHECK(count > 0 && weightsd_layer_at(component, count) == NULL, "%zu layers", count);
    for (size_t at = 0; at < count; at++) {
        const weightsd_layer *layer = weightsd_layer_at(component, at);
        CHECK(layer->mode == WEIGHTSD_MODE_AFFINE && layer->bits == 4 && layer->group_size == 32, "%s", layer->name);
        CHECK(layer->rank == 2 && layer->weight->shape[0] == layer->shape[0], "%s", layer->name);
        CHECK(layer->weight->shape[1] * 32 / 4 == layer->shape[1], "%s", layer->name);
        CHECK(layer->scales->shape[1] * 32 == layer->shape[1], "%s", layer->name);
        CHECK(layer->biases->length == layer->scales->length && layer->global_scale == NULL, "%s", layer->name);
        CHECK(layer->weight == weightsd_tensor_named(component, layer->weight->name), "%s", layer->name);
        CHECK(weightsd_view_at(component, layer->weight->segment)->kind == WEIGHTSD_SEGMENT_KIND_DERIVED, "%s",
              layer->name);
    }
    weightsd_component_free(component);
    weightsd_disconnect(connection);
    printf("%zu layers\n", count);
}

/* Tells the test that everything is loaded, and waits until it says that it has done its part. */
static void loaded_and_then(void)
{
    printf("loaded\n");
    fflush(stdout);
    CHECK(getchar() != EOF, "the test ended");
}

static void survive(void)
{
    weightsd_connection *connection = connect_to_it();
    weightsd_component *component = load(connection), *second = NULL;
    weightsd_notice *notice = NULL;
    weightsd_error *error = NULL;
    loaded_and_then(); /* The daemon is killed. */
    compare(component);
    CHECK(weightsd_next_notice(component, 100, &notice, &error) == WEIGHTSD_CODE_DEADLINE, "nobody serves, so none comes");
    weightsd_error_free(error);
    weightsd_code code = weightsd_load(connection, model, component_name, NULL, &second, &error);
    CHECK(code == WEIGHTSD_CODE_NO_DAEMON || code == WEIGHTSD_CODE_DISCONNECTED, "%d", (int)code);
    CHECK(error->code == code && second == NULL && strlen(error->message) > 0, "the error says what happened");
    weightsd_error_free(error);
    loaded_and_then(); /* Another daemon serves. */
    CHECK(weightsd_next_notice(component, 60000, &notice, &error) == WEIGHTSD_CODE_OK, "%s", error->message);
    CHECK(notice != NULL && (int)notice->kind == 5, "the lease is back"); /* The first ABI has no name for it. */
    weightsd_notice_free(notice);
    second = load(connection);
    compare(second);
    weightsd_component_free(second);
    compare(component);
    weightsd_component_free(component);
    weightsd_disconnect(connection);
}

static void notice(void)
{
    weightsd_connection *connection = connect_to_it();
    weightsd_component *component = load(connection);
    weightsd_notice *notice = NULL;
    weightsd_error *error = NULL;
    CHECK(weightsd_next_notice(component, 0, &notice, &error) == WEIGHTSD_CODE_DEADLINE && notice == NULL, "too soon");
    weightsd_error_free(error);
    loaded_and_then(); /* The file is changed, and somebody asks for it. */
    CHECK(weightsd_next_notice(component, 60000, &notice, &error) == WEIGHTSD_CODE_OK, "%s", error->message);
    CHECK(notice != NULL && notice->kind == WEIGHTSD_NOTICE_KIND_FILE_CHANGED, "it is told of the change");
    CHECK(strstr(notice->message, component_name) != NULL, "%s", notice->message);
    weightsd_notice_free(notice);
    weightsd_component_free(component);
    weightsd_disconnect(connection);
}

static void *wait_for_notice(void *component)
{
    weightsd_notice *notice = NULL;
    weightsd_code code = weightsd_next_notice(component, -1, &notice, NULL);
    CHECK(code == WEIGHTSD_CODE_OK && notice == NULL, "a release ends the wait without a notice");
    return NULL;
}

static void release(void)
{
    weightsd_connection *connection = connect_to_it();
    weightsd_component *component = load(connection);
    pthread_t waiters[4];
    for (size_t at = 0; at < 4; at++)
        CHECK(pthread_create(&waiters[at], NULL, wait_for_notice, component) == 0, "thread");
    loaded_and_then(); /* The daemon counts a lease. */
    weightsd_release(component);
    for (size_t at = 0; at < 4; at++)
        pthread_join(waiters[at], NULL);
    loaded_and_then(); /* And now none. */
    compare(component);
    weightsd_component_free(component);
    weightsd_disconnect(connection);
}

static bool count_steps(const weightsd_progress *progress, void *context)
{
    CHECK(progress->phase != WEIGHTSD_PHASE_OTHER && progress->file != NULL, "a step says what is done");
    ++*(size_t *)context;
    return true;
}

static bool give_up(const weightsd_progress *progress, void *context)
{
    (void)progress;
    ++*(size_t *)context;
    return false;
}

static void progress(void)
{
    weightsd_connection *connection = connect_to_it();
    weightsd_load_options options = WEIGHTSD_LOAD_OPTIONS;
    weightsd_component *component = NULL;
    weightsd_error *error = NULL;
    size_t steps = 0;
    options.on_progress = give_up;
    options.context = &steps;
    weightsd_code code = weightsd_load(connection, model, component_name, &options, &component, &error);
    CHECK(code == WEIGHTSD_CODE_CANCELLED && component == NULL && steps == 1, "%d after %zu", (int)code, steps);
    weightsd_error_free(error);
    options.on_progress = count_steps;
    steps = 0;
    code = weightsd_load(connection, model, argument, &options, &component, &error); /* Not begun by anybody yet. */
    CHECK(code == WEIGHTSD_CODE_OK && steps > 0, "%zu steps", steps);
    weightsd_component_free(component);

    weightsd_cancellation *cancellation = weightsd_cancellation_new();
    options.cancellation = cancellation;
    weightsd_cancel(cancellation);
    options.on_progress = NULL;
    do { /* A load that is done before it is cancelled is a load. */
        code = weightsd_load(connection, model, component_name, &options, &component, &error);
        weightsd_error_free(error);
        weightsd_component_free(component);
    } while (code == WEIGHTSD_CODE_OK);
    CHECK(code == WEIGHTSD_CODE_CANCELLED, "%d", (int)code);
    weightsd_cancellation_free(cancellation);
    weightsd_disconnect(connection);
}

/* A call must fail with that code, and its error must say that word. */
static void refuse(weightsd_code code, weightsd_error *error, weightsd_code expected, const char *word)
{
    CHECK(code == expected && error != NULL && error->code == expected, "%d, expected %d", (int)code, (int)expected);
    CHECK(strstr(error->message, word) != NULL, "%s, expected %s", error->message, word);
    weightsd_error_free(error);
}

static void errors(void)
{
    weightsd_connection *connection = connect_to_it(), *other = NULL;
    weightsd_component *component = load(connection), *second = NULL;
    weightsd_load_options options = WEIGHTSD_LOAD_OPTIONS;
    weightsd_model_options on_model = WEIGHTSD_MODEL_OPTIONS;
    weightsd_connect_options nowhere = WEIGHTSD_CONNECT_OPTIONS;
    weightsd_error *error = NULL;
    char *json = NULL;

    weightsd_code code = weightsd_load(connection, model, "decoder", NULL, &second, &error);
    CHECK(strcmp(error->reason, "COMPONENT_NOT_FOUND") == 0 && strlen(error->hint) > 0, "%s", error->reason);
    CHECK(strstr(error->detail_json, "ERROR_REASON_COMPONENT_NOT_FOUND") != NULL, "%s", error->detail_json);
    CHECK(strcmp(error->resource, "decoder") == 0 && !error->retryable, "%s", error->resource);
    refuse(code, error, WEIGHTSD_CODE_REFUSED, "decoder");
    nowhere.socket = "/nowhere/at/all";
    code = weightsd_connect(&nowhere, &other, &error);
    refuse(code, error, WEIGHTSD_CODE_NO_DAEMON, "/nowhere/at/all");
    CHECK(other == NULL, "a failure leaves no handle");

    /* Handles and pointers that cannot be used. */
    code = weightsd_load(NULL, model, component_name, NULL, &second, &error);
    refuse(code, error, WEIGHTSD_CODE_ARGUMENT, "`connection` is null");
    code = weightsd_load((const weightsd_connection *)component, model, component_name, NULL, &second, &error);
    refuse(code, error, WEIGHTSD_CODE_ARGUMENT, "of another kind");
    code = weightsd_load(connection, NULL, component_name, NULL, &second, &error);
    refuse(code, error, WEIGHTSD_CODE_ARGUMENT, "`spec` is null");
    code = weightsd_load(connection, "caf\xe9", component_name, NULL, &second, &error);
    refuse(code, error, WEIGHTSD_CODE_ARGUMENT, "not UTF-8");
    code = weightsd_load(connection, model, component_name, NULL, NULL, &error);
    refuse(code, error, WEIGHTSD_CODE_ARGUMENT, "`result` is null");
    code = weightsd_load(connection, NULL, NULL, NULL, &second, NULL);
    CHECK(code == WEIGHTSD_CODE_ARGUMENT, "nobody has to ask why");
    options.size = 1;
    code = weightsd_load(connection, model, component_name, &options, &second, &error);
    refuse(code, error, WEIGHTSD_CODE_ARGUMENT, "has size 1");
    options.size = sizeof options;
    options.layout = 77;
    code = weightsd_load(connection, model, component_name, &options, &second, &error);
    refuse(code, error, WEIGHTSD_CODE_ARGUMENT, "`layout` is 77");
    on_model.base = model;
    code = weightsd_resolve(connection, model, &on_model, &json, &error);
    refuse(code, error, WEIGHTSD_CODE_ARGUMENT, "`base`");
    CHECK(weightsd_tensor_count(NULL) == 0 && weightsd_tensor_at(NULL, 0) == NULL, "null has no tensors");
    CHECK(weightsd_tensor_count((const weightsd_component *)connection) == 0, "nor has a connection");
    CHECK(weightsd_tensor_named(component, NULL) == NULL && weightsd_report(NULL) == NULL, "null has no name");
    weightsd_component_free((weightsd_component *)connection); /* Left alone. */
    weightsd_release(NULL);
    weightsd_cancel(NULL);
    weightsd_component_free(NULL);
    weightsd_disconnect(NULL);
    weightsd_error_free(NULL);
    weightsd_notice_free(NULL);
    weightsd_text_free(NULL);
    weightsd_cancellation_free(NULL);

    /* And everything goes on. */
    CHECK(weightsd_resolve(connection, model, NULL, &json, &error) == WEIGHTSD_CODE_OK, "%s", error->message);
    CHECK(strstr(json, "\"family\":\"z-image\"") != NULL, "%s", json);
    weightsd_text_free(json);
    CHECK(weightsd_audit(connection, model, component_name, NULL, &json, &error) == WEIGHTSD_CODE_OK, "it audits");
    CHECK(strstr(json, "\"clean\":true") != NULL && strstr(json, component_name) != NULL, "%s", json);
    weightsd_text_free(json);
    weightsd_component_free(component);
    weightsd_disconnect(connection);
}

/* A system that has no room for a mapping. */
static void memory(void)
{
    weightsd_connection *connection = connect_to_it();
    weightsd_component *component = NULL;
    weightsd_error *error = NULL;
    struct rlimit limit, before;
    weightsd_load_options options = as_stored();
    CHECK(getrlimit(RLIMIT_AS, &before) == 0, "the limit");
    limit = before;
    limit.rlim_cur = (rlim_t)2 << 30;
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0, "a limit");
    weightsd_code code = weightsd_load(connection, model, component_name, &options, &component, &error);
    CHECK(code == WEIGHTSD_CODE_OUT_OF_MEMORY && component == NULL, "%d", (int)code);
    weightsd_error_free(error);
    CHECK(setrlimit(RLIMIT_AS, &before) == 0, "no limit");
    weightsd_component_free(load(connection));
    weightsd_disconnect(connection);
}

static size_t entries(const char *folder)
{
    size_t count = 0;
    DIR *opened = opendir(folder);
    CHECK(opened != NULL, "%s", folder);
    while (readdir(opened) != NULL)
        count++;
    closedir(opened);
    return count;
}

static size_t mappings(void)
{
    size_t lines = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps != NULL, "maps");
    for (int character; (character = fgetc(maps)) != EOF;)
        lines += character == '\n';
    fclose(maps);
    return lines;
}

/* Loads so often that anything that is left behind each time shows. */
static void loads(void)
{
    size_t count = strtoul(argument, NULL, 10), descriptors = 0, mapped = 0, heap = 0;
    weightsd_connection *connection = connect_to_it();
    for (size_t at = 0; at < count; at++) {
        weightsd_component *component = load(connection);
        CHECK(weightsd_tensor_at(component, 0)->length > 0, "it has tensors");
        weightsd_component_free(component);
        if (at == count / 10) { /* Tables have their size by now. */
            descriptors = entries("/proc/self/fd");
            mapped = mappings();
            heap = mallinfo2().uordblks;
        }
    }
    CHECK(entries("/proc/self/fd") <= descriptors + 2, "%zu, then %zu", descriptors, entries("/proc/self/fd"));
    CHECK(mappings() <= mapped + 4, "%zu, then %zu", mapped, mappings());
    size_t now = mallinfo2().uordblks;
    CHECK(now < heap + 64 * 1024, "%zu bytes, then %zu", heap, now);
    weightsd_disconnect(connection);
    printf("%zu loads, %zd bytes more\n", count, (ssize_t)(now - heap));
}

static void *load_and_compare(void *connection)
{
    for (int at = 0; at < 5; at++) {
        weightsd_component *component = load(connection);
        compare(component);
        weightsd_component_free(component);
    }
    return NULL;
}

static void threads(void)
{
    pthread_t all[8];
    weightsd_connection *connection = connect_to_it();
    for (size_t at = 0; at < 8; at++)
        CHECK(pthread_create(&all[at], NULL, load_and_compare, connection) == 0, "thread");
    for (size_t at = 0; at < 8; at++)
        pthread_join(all[at], NULL);
    weightsd_disconnect(connection);
}

int main(int count, char **arguments)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } all[] = {
        {"values", values}, {"layers", layers}, {"survive", survive},   {"notice", notice}, {"release", release},
        {"errors", errors}, {"memory", memory}, {"progress", progress}, {"loads", loads},   {"threads", threads},
    };
    CHECK(count >= 5, "usage: check WHAT SOCKET MODEL COMPONENT [MANIFEST, COUNT or COMPONENT]");
    CHECK(weightsd_abi() == WEIGHTSD_ABI && strlen(weightsd_version()) > 0, "another library");
    socket_path = arguments[2];
    model = arguments[3];
    component_name = arguments[4];
    argument = count > 5 ? arguments[5] : "";
    for (size_t at = 0; at < sizeof all / sizeof *all; at++) {
        if (strcmp(all[at].name, arguments[1]) == 0) {
            all[at].run();
            return 0;
        }
    }
    CHECK(false, "there is no check `%s`", arguments[1]);
}
