//! The page at `/`: a document, its style sheet, its script and its icon, compiled in.
//!
//! They hold no data and ask for no token; the script fetches everything from `/api/v1` like any other client. Nothing is
//! inline and nothing comes from elsewhere, so that a content security policy of `default-src 'self'` is enough.

use axum::Router;
use axum::http::header;
use axum::routing::get;

const DOCUMENT: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
/// One module, written in four files.
const SCRIPT: &str = concat!(
    include_str!("page/base.js"),
    include_str!("page/cards.js"),
    include_str!("page/tables.js"),
    include_str!("page/main.js"),
);
const ICON: &str = include_str!("page/page.svg");

/// The addresses of the page and of what it loads.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let asset = |content_type: &'static str, body: &'static str| get(([(header::CONTENT_TYPE, content_type)], body));
    Router::new()
        .route("/", asset("text/html; charset=utf-8", DOCUMENT))
        .route("/page.css", asset("text/css; charset=utf-8", STYLE))
        .route("/page.js", asset("text/javascript; charset=utf-8", SCRIPT))
        .route("/page.svg", asset("image/svg+xml", ICON))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_the_page_loads_is_its_own() {
        for path in ["/page.css", "/page.js", "/page.svg"] {
            assert!(DOCUMENT.contains(&format!("\"{path}\"")), "{path} is not asked for");
        }
        for (name, text) in [("index.html", DOCUMENT), ("page.css", STYLE), ("page.js", SCRIPT)] {
            let outside = ["https://", "url(", "@import", "data:"].into_iter().find(|way| text.contains(way));
            assert_eq!(outside, None, "{name} loads something from elsewhere");
        }
        assert!(!SCRIPT.contains("http://") && !STYLE.contains("http://") && !DOCUMENT.contains("http://"));
    }

    #[test]
    fn nothing_inline_needs_a_hole_in_the_content_security_policy() {
        for inline in ["<style", " style=", "<script>", " onclick=", " onload=", " onsubmit=", "javascript:"] {
            assert!(!DOCUMENT.contains(inline), "{inline}");
        }
    }

    #[test]
    fn what_the_server_says_reaches_the_page_as_text_only() {
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"] {
            assert!(!SCRIPT.contains(way), "{way}");
        }
    }
}
