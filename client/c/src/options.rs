//! Options, as C fills them in. Each struct begins with its size, so that a program and a library of different versions
//! understand each other: what the shorter one lacks is zero, and zero is the default.

use std::{
    ffi::{c_char, c_void},
    mem::{MaybeUninit, size_of},
    ptr,
    time::Duration,
};

use weightsd_client::{
    AuditPolicy, FloatType, Handoff, Hold, Layout, LoadRequest, MergedLayers, Quantisation, QuantisationMode,
    Verification,
};

use crate::{
    cancellation::weightsd_cancellation,
    constants::{weightsd_handoff, weightsd_network},
    error::Failure,
    progress::weightsd_on_progress,
    text,
};

/// Options of `weightsd_connect`. Begin with WEIGHTSD_CONNECT_OPTIONS.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct weightsd_connect_options {
    /// `sizeof` this struct.
    pub size: usize,
    /// Path of the daemon's socket; null: where this process's environment says (`WEIGHTSD_SOCKET`, then the usual place).
    pub socket: *const c_char,
    /// How long connecting, and every call that has no deadline of its own, may take, in milliseconds; 0: 5000.
    pub deadline_ms: u64,
}

/// Which files a model's name means. Begin with WEIGHTSD_MODEL_OPTIONS.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct weightsd_model_options {
    /// `sizeof` this struct.
    pub size: usize,
    /// Revision (branch, tag or commit) of a Hugging Face id.
    pub revision: *const c_char,
    /// Variant of the weights, such as "fp16".
    pub variant: *const c_char,
    /// The Hugging Face cache to look in; null: as the environment says.
    pub hub_cache: *const c_char,
    /// The directory that a relative path starts from; null: the current one.
    pub working_directory: *const c_char,
    /// Globs over the paths of weight files; only weights that match one count.
    pub patterns: *const *const c_char,
    /// How many patterns there are.
    pub pattern_count: usize,
    /// A model whose configs count for weights that have none.
    pub base: *const c_char,
    /// A file, directory or id whose tensors replace all or some of the component's.
    pub overlay: *const c_char,
    /// A `weightsd_network`.
    pub network: u32,
}

/// An adapter that is added to the weights.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct weightsd_adapter {
    /// A `.safetensors` file, a directory that holds one, or a Hugging Face id.
    pub model: *const c_char,
    /// A glob that chooses one of several files; null: there is one.
    pub pattern: *const c_char,
    /// Factor on its changes, if `has_scale`; negative subtracts them.
    pub scale: f64,
    /// Whether `scale` counts. Without it the factor is 1.
    pub has_scale: bool,
}

/// How layers are quantised. Begin with WEIGHTSD_QUANTISATION.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct weightsd_quantisation {
    /// `sizeof` this struct.
    pub size: usize,
    /// A `weightsd_mode`.
    pub mode: u32,
    /// Bits of a code; 0: the mode's default.
    pub bits: u32,
    /// Weights that share a scale; 0: the mode's default.
    pub group_size: u32,
    /// Globs over names of layers; none: the family's rule.
    pub only: *const *const c_char,
    /// How many there are.
    pub only_count: usize,
    /// Globs over layers that stay as they are.
    pub excluding: *const *const c_char,
    /// How many there are.
    pub excluding_count: usize,
}

/// Options of `weightsd_load`. Begin with WEIGHTSD_LOAD_OPTIONS. Everything that it points at must live until the call
/// returns.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct weightsd_load_options {
    /// `sizeof` this struct.
    pub size: usize,
    /// Which files the model's name means; null: the defaults.
    pub model: *const weightsd_model_options,
    /// How layers are quantised; null: they are left as they are.
    pub quantise: *const weightsd_quantisation,
    /// Adapters, in the order in which they are added.
    pub adapters: *const weightsd_adapter,
    /// How many there are.
    pub adapter_count: usize,
    /// A `weightsd_layout`.
    pub layout: u32,
    /// A `weightsd_float`.
    pub dtype: u32,
    /// A `weightsd_merged`.
    pub merged: u32,
    /// A `weightsd_audit_policy`.
    pub audit_policy: u32,
    /// A `weightsd_verification`.
    pub verification: u32,
    /// A `weightsd_hold`.
    pub hold: u32,
    /// A `weightsd_handoff`.
    pub handoff: u32,
    /// Whether quantised layers are lent as plain ones. Not together with `quantise`.
    pub dequantise: bool,
    /// Whether `keep_alive_ms` counts. Without it the daemon's own time does.
    pub has_keep_alive: bool,
    /// How long the component should stay warm after the last lease, in milliseconds. The daemon limits it.
    pub keep_alive_ms: u64,
    /// How long the daemon may stay silent, in milliseconds; 0: 120000.
    pub deadline_ms: u64,
    /// This client's name in lists and logs; null: the program's name.
    pub client_name: *const c_char,
    /// Called for every step that the daemon reports, on the thread that called; null: nobody is told.
    pub on_progress: weightsd_on_progress,
    /// Passed to `on_progress`.
    pub context: *mut c_void,
    /// What ends the load early; null: nothing.
    pub cancellation: *const weightsd_cancellation,
}

/// A struct of options whose bytes may all be zero, and whose first field is its size.
///
/// # Safety
/// All bytes zero must be a value of the type, and its first field must be `size: usize`.
pub(crate) unsafe trait Versioned: Copy {
    const NAME: &'static str;
}

// SAFETY: numbers, pointers, and functions that may be absent, and all may be zero; `size` is first under `repr(C)`.
unsafe impl Versioned for weightsd_connect_options {
    const NAME: &'static str = "connect_options";
}
// SAFETY: as above.
unsafe impl Versioned for weightsd_model_options {
    const NAME: &'static str = "model_options";
}
// SAFETY: as above.
unsafe impl Versioned for weightsd_quantisation {
    const NAME: &'static str = "quantisation";
}
// SAFETY: as above.
unsafe impl Versioned for weightsd_load_options {
    const NAME: &'static str = "load_options";
}

/// Most bytes that a later version of a struct may have.
const LATER_BYTES_MAX: usize = 4096;

/// Reads a struct of another or the same version. `None` for null.
///
/// # Errors
/// When its size is that of no version, or a field is set that this library does not know.
///
/// # Safety
/// `options` is null, or points at as many bytes as its `size` says.
pub(crate) unsafe fn read<T: Versioned>(options: *const T) -> Result<Option<T>, Failure> {
    if options.is_null() {
        return Ok(None);
    }
    // SAFETY: it is not null, and `size` comes first.
    let size = unsafe { options.cast::<usize>().read() };
    if size < size_of::<usize>() || size > LATER_BYTES_MAX {
        let problem = format!("has size {size}: begin with the macro of weightsd.h, which sets it");
        return Err(Failure::argument(T::NAME, problem));
    }
    let known = size.min(size_of::<T>());
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes are there, and room for them; they do not overlap.
    unsafe { ptr::copy_nonoverlapping(options.cast::<u8>(), value.as_mut_ptr().cast::<u8>(), known) };
    // SAFETY: `size` says that the rest is there.
    let rest = unsafe { std::slice::from_raw_parts(options.cast::<u8>().add(known), size - known) };
    if rest.iter().any(|byte| *byte != 0) {
        let problem = "sets an option that this library is too old to know".to_owned();
        return Err(Failure::argument(T::NAME, problem));
    }
    // SAFETY: zeros are a value, and C filled the rest in as the header says.
    Ok(Some(unsafe { value.assume_init() }))
}

/// One of the numbers of an enum of the wire; 0 is its default.
fn number<T: TryFrom<i32>>(number: u32, name: &str) -> Result<T, Failure> {
    let known = i32::try_from(number).ok().and_then(|number| T::try_from(number).ok());
    known.ok_or_else(|| Failure::argument(name, format!("is {number}, which is none of its values")))
}

/// A number that has no enum on the wire.
fn unknown(number: u32, name: &str) -> Failure {
    Failure::argument(name, format!("is {number}, which is none of its values"))
}

/// Points at texts, or at nothing.
type Texts = (*const *const c_char, usize);

/// # Safety
/// As for [`text::list`].
unsafe fn owned((texts, count): Texts, name: &str) -> Result<Vec<String>, Failure> {
    // SAFETY: as this function's own contract says.
    let texts = unsafe { text::list(texts, count, name) }?;
    Ok(texts.into_iter().map(str::to_owned).collect())
}

impl weightsd_model_options {
    /// The request for these files.
    ///
    /// # Safety
    /// Its pointers are as the header says.
    pub(crate) unsafe fn apply(&self, mut request: LoadRequest) -> Result<LoadRequest, Failure> {
        request = match self.network {
            n if n == weightsd_network::Environment as u32 => request,
            n if n == weightsd_network::Allowed as u32 => request.offline(false),
            n if n == weightsd_network::Offline as u32 => request.offline(true),
            n => return Err(unknown(n, "network")),
        };
        // SAFETY: as this function's own contract says.
        unsafe {
            if let Some(revision) = text::optional(self.revision, "revision")? {
                request = request.revision(revision);
            }
            if let Some(variant) = text::optional(self.variant, "variant")? {
                request = request.variant(variant);
            }
            if let Some(cache) = text::path(self.hub_cache) {
                request = request.hub_cache(cache);
            }
            if let Some(directory) = text::path(self.working_directory) {
                request = request.working_directory(directory);
            }
            request = request.patterns(owned((self.patterns, self.pattern_count), "patterns")?);
            // Last: they are looked up in the same cache and folder.
            if let Some(base) = text::optional(self.base, "base")? {
                request = request.base(base);
            }
            if let Some(overlay) = text::optional(self.overlay, "overlay")? {
                request = request.overlay(overlay);
            }
        }
        Ok(request)
    }
}

impl weightsd_load_options {
    /// The request with these options.
    ///
    /// # Safety
    /// Its pointers are as the header says.
    pub(crate) unsafe fn apply(&self, request: LoadRequest) -> Result<LoadRequest, Failure> {
        let mut request = self.apply_numbers(request)?;
        // SAFETY: as this function's own contract says.
        unsafe {
            if let Some(name) = text::optional(self.client_name, "client_name")? {
                request = request.client_name(name);
            }
            if let Some(quantise) = read(self.quantise)? {
                request = request.quantise(quantise.message()?);
            }
            if let Some(model) = read(self.model)? {
                request = model.apply(request)?;
            }
            // Last: they are looked up in the same cache and folder as the model.
            for adapter in self.adapters()? {
                request = adapter.apply(request)?;
            }
        }
        Ok(request)
    }

    fn apply_numbers(&self, request: LoadRequest) -> Result<LoadRequest, Failure> {
        let mut request = request
            .layout(number::<Layout>(self.layout, "layout")?)
            .dtype(number::<FloatType>(self.dtype, "dtype")?)
            .merged_layers(number::<MergedLayers>(self.merged, "merged")?)
            .audit_policy(number::<AuditPolicy>(self.audit_policy, "audit_policy")?)
            .verification(number::<Verification>(self.verification, "verification")?)
            .hold(number::<Hold>(self.hold, "hold")?);
        request = match self.handoff {
            n if n == weightsd_handoff::Descriptors as u32 => request.handoff(Handoff::Descriptors),
            n if n == weightsd_handoff::Path as u32 => request.handoff(Handoff::Path),
            n => return Err(unknown(n, "handoff")),
        };
        if self.dequantise {
            request = request.dequantise();
        }
        if self.has_keep_alive {
            request = request.keep_alive(Duration::from_millis(self.keep_alive_ms));
        }
        if self.deadline_ms != 0 {
            request = request.deadline(Duration::from_millis(self.deadline_ms));
        }
        Ok(request)
    }

    /// # Safety
    /// Its pointers are as the header says.
    unsafe fn adapters(&self) -> Result<&[weightsd_adapter], Failure> {
        match (self.adapters.is_null(), self.adapter_count) {
            (_, 0) => Ok(&[]),
            (true, count) => Err(Failure::argument("adapters", format!("is null, and its count is {count}"))),
            // SAFETY: it is not null, so there are that many.
            (false, count) => Ok(unsafe { std::slice::from_raw_parts(self.adapters, count) }),
        }
    }
}

impl weightsd_adapter {
    /// # Safety
    /// Its pointers are as the header says.
    unsafe fn apply(&self, request: LoadRequest) -> Result<LoadRequest, Failure> {
        // SAFETY: as this function's own contract says.
        let (spec, pattern) =
            unsafe { (text::required(self.model, "adapter.model")?, text::optional(self.pattern, "adapter.pattern")?) };
        let scale = if self.has_scale { self.scale } else { 1.0 };
        Ok(match pattern {
            Some(pattern) => request.adapter_file(spec, pattern, scale),
            None => request.adapter(spec, scale),
        })
    }
}

impl weightsd_quantisation {
    /// # Safety
    /// Its pointers are as the header says.
    unsafe fn message(&self) -> Result<Quantisation, Failure> {
        let mode = number::<QuantisationMode>(self.mode, "mode")?.into();
        // SAFETY: as this function's own contract says.
        unsafe {
            Ok(Quantisation {
                mode,
                bits: self.bits,
                group_size: self.group_size,
                only: owned((self.only, self.only_count), "only")?,
                excluding: owned((self.excluding, self.excluding_count), "excluding")?,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank() -> weightsd_load_options {
        // SAFETY: all options may be zero, as `Versioned` says.
        let zero = unsafe { MaybeUninit::<weightsd_load_options>::zeroed().assume_init() };
        weightsd_load_options { size: size_of::<weightsd_load_options>(), ..zero }
    }

    #[test]
    fn an_older_program_is_understood_and_a_newer_one_when_it_sets_nothing_new() {
        #[repr(C)]
        struct Newer {
            known: weightsd_load_options,
            new: u64,
        }
        let mut newer = Newer { known: blank(), new: 0 };
        newer.known.size = size_of::<Newer>();
        newer.known.layout = 2;
        let newest = &raw const newer;
        // SAFETY: each struct has as many bytes as its size says.
        unsafe {
            assert_eq!(read(newest.cast::<weightsd_load_options>()).unwrap().unwrap().layout, 2);
            newer.new = 1;
            let error = read((&raw const newer).cast::<weightsd_load_options>()).unwrap_err().to_string();
            assert!(error.contains("too old to know"), "{error}");

            let mut older = blank();
            (older.layout, older.keep_alive_ms, older.has_keep_alive) = (2, 7, true);
            older.size = std::mem::offset_of!(weightsd_load_options, has_keep_alive);
            let understood = read(&raw const older).unwrap().unwrap();
            assert_eq!((understood.layout, understood.has_keep_alive, understood.keep_alive_ms), (2, false, 0));

            older.size = 0;
            assert!(read(&raw const older).unwrap_err().to_string().contains("has size 0"));
            assert!(read::<weightsd_load_options>(ptr::null()).unwrap().is_none());
        }
    }

    #[test]
    fn options_become_the_request_and_what_is_none_is_refused() {
        let adapters =
            [weightsd_adapter { model: c"/a".as_ptr(), pattern: ptr::null(), scale: 0.0, has_scale: false }; 2];
        let options = weightsd_load_options {
            layout: 2,
            dtype: 4,
            hold: 2,
            adapters: adapters.as_ptr(),
            adapter_count: 2,
            client_name: c"me".as_ptr(),
            ..blank()
        };
        // SAFETY: all pointers are to constants or to locals that live.
        unsafe {
            let request = options.apply(LoadRequest::new("/m", "vae")).unwrap();
            let message = request.message();
            assert_eq!(
                (message.layout(), message.dtype(), message.hold()),
                (Layout::Source, FloatType::F32, Hold::None)
            );
            assert_eq!((message.client_name.as_str(), message.adapters.len()), ("me", 2));
            assert_eq!(message.adapters[1].scale, Some(1.0), "0 without has_scale is not a factor of 0");
            for wrong in [
                weightsd_load_options { layout: u32::MAX, ..blank() },
                weightsd_load_options { handoff: 2, ..blank() },
                weightsd_load_options { dtype: u32::MAX, ..blank() },
                weightsd_load_options { adapter_count: 1, ..blank() },
            ] {
                wrong.apply(LoadRequest::new("/m", "vae")).unwrap_err();
            }
        }
    }
}
