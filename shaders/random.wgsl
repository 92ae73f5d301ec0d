// The counter-based generator of remask-core's random.rs, operation for operation.

fn rotate_left(v: u32, by: u32) -> u32 {
    return (v << by) | (v >> (32u - by));
}

fn mix4(v: vec2<u32>, a: u32, b: u32, c: u32, d: u32) -> vec2<u32> {
    var x = v.x + v.y;
    var y = rotate_left(v.y, a) ^ x;
    x += y;
    y = rotate_left(y, b) ^ x;
    x += y;
    y = rotate_left(y, c) ^ x;
    x += y;
    y = rotate_left(y, d) ^ x;
    return vec2<u32>(x, y);
}

// Threefry-2x32, 20 rounds.
fn threefry(key: vec2<u32>, counter: vec2<u32>) -> vec2<u32> {
    let third = 0x1BD11BDAu ^ key.x ^ key.y;
    var v = counter + key;
    v = mix4(v, 13u, 15u, 26u, 6u) + vec2<u32>(key.y, third + 1u);
    v = mix4(v, 17u, 29u, 16u, 24u) + vec2<u32>(third, key.x + 2u);
    v = mix4(v, 13u, 15u, 26u, 6u) + vec2<u32>(key.x, key.y + 3u);
    v = mix4(v, 17u, 29u, 16u, 24u) + vec2<u32>(key.y, third + 4u);
    v = mix4(v, 13u, 15u, 26u, 6u) + vec2<u32>(third, key.x + 5u);
    return v;
}

fn unit_float(bits: vec2<u32>) -> f32 {
    return bitcast<f32>(((126u - countLeadingZeros(bits.x)) << 23u) | (bits.y >> 9u));
}

fn twice_atanh(z: f32) -> f32 {
    let z2 = z * z;
    let tail = z2 * (1.0 / 3.0 + z2 * (0.2 + z2 * (1.0 / 7.0 + z2 * (1.0 / 9.0 + z2 * (1.0 / 11.0 + z2 * (1.0 / 13.0))))));
    return 2.0 * z * (1.0 + tail);
}

// The built-in log may be wrong by 2^-21 near 1, where Gumbel noise is decided.
fn accurate_log(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    var exponent = i32(bits >> 23u) - 127;
    var mantissa = bitcast<f32>((bits & 0x007FFFFFu) | 0x3F800000u);
    if mantissa > 1.4142135 {
        mantissa *= 0.5;
        exponent += 1;
    }
    return f32(exponent) * 0.6931472 + twice_atanh((mantissa - 1.0) / (mantissa + 1.0));
}

fn gumbel(bits: vec2<u32>) -> f32 {
    let v = unit_float(bits);
    var exponential: f32;
    if v <= 0.5 {
        exponential = twice_atanh(v / (2.0 - v));
    } else {
        exponential = -accurate_log(1.0 - v);
    }
    return -accurate_log(exponential);
}
