//! Errors as JavaScript objects: `{ kind, message }`. The package turns each kind into a class.

use remask_core::{BackendError, Error};
use wasm_bindgen::JsValue;

/// What kind of failure this is, in a word that the package knows.
fn kind(error: &Error) -> &'static str {
    match error {
        Error::Backend(e) => match e {
            BackendError::NoAdapter(_) => "no-webgpu",
            BackendError::Unsupported { .. } => "limits",
            BackendError::OutOfMemory { .. } => "out-of-memory",
            BackendError::DeviceLost(_) => "device-lost",
            BackendError::Weights(_) | BackendError::NotFinite { .. } => "model",
            _ => "device",
        },
        Error::Request(_) => "request",
        Error::Golden { .. } => "golden",
        _ => "model",
    }
}

/// The object that is thrown.
pub fn thrown(error: impl Into<Error>) -> JsValue {
    let error = error.into();
    let object = js_sys::Object::new();
    for (key, value) in [("kind", kind(&error)), ("message", &error.to_string())] {
        // Setting a property of a fresh object cannot fail.
        let _ = js_sys::Reflect::set(&object, &key.into(), &value.into());
    }
    object.into()
}
