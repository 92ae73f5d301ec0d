// Two or four neighbouring results as they are stored: f32, or with HALF f16 packed with core WGSL.

#include "saturated"

#if HALF
alias Two = u32;
alias Four = vec2<u32>;

fn two(v: vec2<f32>) -> Two {
    return pack2x16float(saturated(v));
}

fn four(v: vec4<f32>) -> Four {
    return vec2<u32>(two(v.xy), two(v.zw));
}
#else
alias Two = vec2<f32>;
alias Four = vec4<f32>;

fn two(v: vec2<f32>) -> Two {
    return v;
}

fn four(v: vec4<f32>) -> Four {
    return v;
}
#endif
