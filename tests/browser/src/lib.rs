//! Every kernel's case table, for a page to run through WebGPU.
#![cfg(target_arch = "wasm32")]
// wasm-bindgen marks every jspi export as experimental by way of a deprecation.
#![allow(deprecated)]

use remask_testkit::blocking::block_on;
use remask_testkit::cases::TABLES;
use remask_testkit::harness::Harness;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(text: &str);
}

/// Panics, which are failed cases, go to the console.
#[wasm_bindgen(start)]
pub fn start() {
    std::panic::set_hook(Box::new(|info| console_error(&info.to_string())));
}

/// Names of the tables.
#[wasm_bindgen]
pub fn tables() -> Vec<String> {
    TABLES.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// Runs a table on the browser's adapter, at WebGPU's default limits.
#[wasm_bindgen(jspi)]
pub fn run_table(name: &str) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default())).expect("an adapter");
    let (_, run) = TABLES.iter().find(|(table, _)| *table == name).expect("a table of that name");
    run(&mut Harness::open(&adapter));
}
