// What is kept of a row's logits: enough for the chosen token, its probability, the row's entropy and
// the margin between the two likeliest tokens. Two of these merge into one, in any grouping.

struct Selection {
    top1: f32,       // largest logit
    top2: f32,       // second largest
    sum: f32,        // sum of exp(logit - top1)
    weighted: f32,   // sum of (logit - top1) * exp(logit - top1)
    score: f32,      // largest logit plus noise
    logit: f32,      // noise-free logit of the token with that score
    token: u32,      // that token; the lowest id among equals
    not_finite: u32, // 1 if a logit was NaN or infinite
}

const NOTHING: f32 = -1e30;

fn empty_selection() -> Selection {
    return Selection(NOTHING, NOTHING, 0.0, 0.0, NOTHING, NOTHING, 0xFFFFFFFFu, 0u);
}

fn merge(a: Selection, b: Selection) -> Selection {
    var m = a;
    let top = max(a.top1, b.top1);
    let ca = exp(a.top1 - top);
    let cb = exp(b.top1 - top);
    m.top1 = top;
    m.top2 = max(min(a.top1, b.top1), max(a.top2, b.top2));
    m.sum = ca * a.sum + cb * b.sum;
    m.weighted = ca * (a.weighted + (a.top1 - top) * a.sum) + cb * (b.weighted + (b.top1 - top) * b.sum);
    if b.score > a.score || (b.score == a.score && b.token < a.token) {
        m.score = b.score;
        m.logit = b.logit;
        m.token = b.token;
    }
    m.not_finite = a.not_finite | b.not_finite;
    return m;
}

// A selection of one token.
fn selection_of(logit: f32, score: f32, token: u32) -> Selection {
    // The bits are tested because compilers may assume that no NaN exists.
    if (bitcast<u32>(logit) & 0x7F800000u) == 0x7F800000u {
        var none = empty_selection();
        none.not_finite = 1u;
        return none;
    }
    return Selection(logit, NOTHING, 1.0, 0.0, score, logit, token, 0u);
}
