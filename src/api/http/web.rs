//! The files of the pages, inside the program: nothing is read from the disk and nothing is built.
//!
//! A page holds no secret; what it shows it asks for with the token.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use axum::routing::get;

use super::App;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// `(path, content type, content)`
type File = (&'static str, &'static str, &'static [u8]);

const PAGES: &[File] = &[
    ("/", HTML, include_bytes!("../web/index.html")),
    ("/peer", HTML, include_bytes!("../web/peer.html")),
];

/// Files of one folder, served below `/static/`.
macro_rules! files {
    ($folder:literal, $below:literal: $($name:literal $kind:ident),* $(,)?) => {
        &[$((
            concat!("/static/", $below, $name),
            $kind,
            include_bytes!(concat!("../web/", $folder, "/", $name)),
        )),*]
    };
}

const OWN: &[File] = files!("static", "":
    "admin.js" SCRIPT, "api.js" SCRIPT, "ask.js" SCRIPT, "channels.js" SCRIPT, "course.js" SCRIPT,
    "detail.js" SCRIPT, "dom.js" SCRIPT, "format.js" SCRIPT, "history.js" SCRIPT, "layout.js" SCRIPT,
    "links.js" SCRIPT, "live.js" SCRIPT, "load.js" SCRIPT, "log.js" SCRIPT, "mark.svg" IMAGE,
    "overlay.js" SCRIPT, "page.css" STYLE, "peer.js" SCRIPT, "peers.js" SCRIPT, "picture.js" SCRIPT,
    "plot.js" SCRIPT, "queue.js" SCRIPT, "said.js" SCRIPT, "shell.js" SCRIPT, "sse.js" SCRIPT,
    "table.js" SCRIPT, "token.js" SCRIPT, "why.js" SCRIPT, "words.js" SCRIPT,
);

/// Of others: `vendor/README.md` has their versions and licences.
const VENDORED: &[File] = files!("vendor", "vendor/":
    "d3-dispatch.min.js" SCRIPT, "d3-force.min.js" SCRIPT, "d3-quadtree.min.js" SCRIPT,
    "d3-timer.min.js" SCRIPT, "uPlot.iife.min.js" SCRIPT, "uPlot.min.css" STYLE,
);

pub(super) fn router() -> Router<Arc<App>> {
    let all = [PAGES, OWN, VENDORED].into_iter().flatten();
    all.fold(Router::new(), |router, &(path, kind, content)| {
        router.route(path, get(move || async move { file(kind, content) }))
    })
}

fn file(kind: &'static str, content: &'static [u8]) -> Response {
    let mut response = Response::new(Body::from(content));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // Another version of the daemon has other files at the same place.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The scripts, styles and images of a folder of the pages.
    fn in_folder(folder: &str, below: &str) -> BTreeSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/web").join(folder);
        let names = fs::read_dir(folder).expect("the folder").map(|entry| {
            entry.expect("an entry").file_name().into_string().expect("a name in UTF-8")
        });
        names
            .filter(|name| [".js", ".css", ".svg"].iter().any(|end| name.ends_with(end)))
            .map(|name| format!("/static/{below}{name}"))
            .collect()
    }

    #[test]
    fn every_file_of_the_pages_is_served() {
        let served = |files: &[File]| {
            files.iter().map(|(path, ..)| (*path).to_owned()).collect::<BTreeSet<_>>()
        };
        assert_eq!(served(OWN), in_folder("static", ""));
        assert_eq!(served(VENDORED), in_folder("vendor", "vendor/"));
    }

    #[test]
    fn pages_name_no_other_host_and_have_no_inline_code() {
        for (path, kind, content) in [PAGES, OWN].into_iter().flatten() {
            let text = String::from_utf8_lossy(content);
            let without_names = text.replace("http://www.w3.org/", "");
            assert!(!without_names.contains("http://"), "{path} names another host");
            assert!(!without_names.contains("https://"), "{path} names another host");
            if *kind == HTML {
                assert!(!text.contains(" style="), "{path} has an inline style");
                assert!(!text.contains("<style"), "{path} has an inline style");
                assert!(!text.contains("<script>"), "{path} has an inline script");
                for handler in [" onclick=", " onload=", " onerror=", " onsubmit=", " onchange="] {
                    assert!(!text.contains(handler), "{path} has an inline handler");
                }
                // Below a base path only relative addresses lead anywhere.
                assert!(!text.contains("=\"/"), "{path} has an absolute address");
            }
            if *kind == SCRIPT {
                for word in
                    ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
                {
                    assert!(!text.contains(word), "{path} makes elements of text: {word}");
                }
            }
        }
    }
}
