//! Waiting for a device from functions that are not async, as tests are written.

/// Waits for a future. In a browser, whose loop must go on meanwhile, the WebAssembly stack is put aside
/// (JavaScript Promise Integration); what is called there must be called through a `jspi` export.
#[cfg(not(target_arch = "wasm32"))]
pub fn block_on<F: Future>(future: F) -> F::Output {
    pollster::block_on(future)
}

/// Waits for a future. In a browser, whose loop must go on meanwhile, the WebAssembly stack is put aside
/// (JavaScript Promise Integration); what is called there must be called through a `jspi` export.
#[cfg(target_arch = "wasm32")]
pub fn block_on<F: Future>(future: F) -> F::Output {
    use std::task::{Context, Poll, Waker};

    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        imports::next_turn();
    }
}

#[cfg(target_arch = "wasm32")]
// wasm-bindgen marks every suspending import as experimental by way of a deprecation.
#[allow(deprecated)]
mod imports {
    use wasm_bindgen::prelude::*;

    // A message comes at once; timers that set each other off are held back for 4 ms each.
    #[wasm_bindgen(inline_js = "
        const { port1, port2 } = new MessageChannel();
        export function next_turn() {
            return new Promise(done => { port1.onmessage = () => done(); port2.postMessage(0); });
        }")]
    extern "C" {
        /// Returns when the browser's loop has come round.
        #[wasm_bindgen(suspending)]
        pub fn next_turn();
    }
}
