// Four neighbouring results as they are stored: f32, or with HALF f16 packed with core WGSL.

#include "saturated"

#if HALF
alias Four = vec2<u32>;

fn four(v: vec4<f32>) -> Four {
    return vec2<u32>(pack2x16float(saturated(v.xy)), pack2x16float(saturated(v.zw)));
}
#else
alias Four = vec4<f32>;

fn four(v: vec4<f32>) -> Four {
    return v;
}
#endif
