//! Pages for people: the playground, the documentation, and what both are made of. All of it is part of the program,
//! holds no secret and needs no key; what the pages ask this server for does.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde_json::Value;

use crate::app::App;
use crate::error::ApiError;
use crate::openapi::DOCUMENT;

/// Scripts, styles, pictures and requests of this server and of nobody else; nothing inline, in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// Name, type and content.
const ASSETS: [(&str, &str, &str); 9] = [
    ("page.css", CSS, include_str!("../../assets/page.css")),
    ("playground.css", CSS, include_str!("../../assets/playground.css")),
    ("playground.js", JS, include_str!("../../assets/playground.js")),
    ("canvas.js", JS, include_str!("../../assets/canvas.js")),
    ("figures.js", JS, include_str!("../../assets/figures.js")),
    ("server.js", JS, include_str!("../../assets/server.js")),
    ("docs.css", CSS, include_str!("../../assets/docs.css")),
    ("docs.js", JS, include_str!("../../assets/docs.js")),
    ("icon.svg", "image/svg+xml", include_str!("../../assets/icon.svg")),
];

/// Headers of everything here. What a browser keeps it asks about again: the next version has the same addresses.
fn sent(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    ([("cross-origin-opener-policy", "same-origin")], headers, text).into_response()
}

pub async fn playground(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if app.config.playground {
        Ok(sent("text/html; charset=utf-8", include_str!("../../assets/playground.html")))
    } else {
        Err(ApiError::not_found("/playground"))
    }
}

pub async fn docs() -> Response {
    sent("text/html; charset=utf-8", include_str!("../../assets/docs.html"))
}

pub async fn redoc() -> Redirect {
    Redirect::temporary("docs")
}

pub async fn openapi() -> Json<&'static Value> {
    Json(&DOCUMENT)
}

pub async fn asset(Path(name): Path<String>) -> Result<Response, ApiError> {
    let found = ASSETS.iter().find(|(own, _, _)| *own == name);
    found.map(|(_, kind, text)| sent(kind, text)).ok_or_else(|| ApiError::not_found(&format!("/assets/{name}")))
}

/// Whether a client names HTML, and likes it better than JSON: browsers do, programs do not.
pub fn prefers_html(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges = ranges.flat_map(|list| list.split(',')).map(|range| {
        let (kind, parameters) = range.split_once(';').unwrap_or((range, ""));
        let quality = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("q="));
        (kind.trim().to_ascii_lowercase(), quality.map_or(1.0, |q| q.trim().parse::<f32>().unwrap_or(0.0)))
    });
    let ranges: Vec<_> = ranges.collect();
    let quality = |kind: &str| ranges.iter().find(|(range, _)| range == kind).map(|(_, quality)| *quality);
    let html = quality("text/html").unwrap_or(0.0);
    // Who names HTML and takes anything else as well likes it better.
    match (quality("application/json"), quality("application/*").or(quality("*/*"))) {
        (Some(json), _) => html > json,
        (None, anything) => html > 0.0 && html >= anything.unwrap_or(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_is_for_those_who_like_it_better() {
        let prefers = |accept: &str| prefers_html(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]));
        let firefox = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for accept in [
            firefox,
            "text/html",
            "Text/HTML;q=0.9, application/json;q=0.8",
            "text/html, application/json;q=0",
            "text/html, */*",
        ] {
            assert!(prefers(accept), "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "application/json",
            "application/json, text/html",
            "text/html;q=0.5, */*",
            "text/*",
            "text/html;q=0",
            "text/html;q=x",
        ] {
            assert!(!prefers(accept), "{accept}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }
}
