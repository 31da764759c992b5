//! A headless Chromium behind its driver, used as a person uses it: open, read, click, type.
//!
//! Everything has a deadline. What a page logs as an error, content-security violations among it, can
//! be read; the pages must have none. Needs `chromium` and `chromedriver`, and says so loudly where they
//! are missing.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use fantoccini::elements::Element;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::common::program::{Program, wait_for};

/// For anything that a page or two busy cores have to get done.
pub(crate) const LONG: Duration = Duration::from_secs(30);
/// With this in the environment a missing browser is a failure.
const REQUIRED: &str = "SPANWAY_REQUIRE_BROWSER";

/// One window. The browser ends with it.
pub(crate) struct Browser {
    // In the order in which they end.
    client: Client,
    runtime: Runtime,
    _driver: Program,
    port: u16,
    _folder: TempDir,
}

impl Browser {
    /// None, loudly, where there is no browser.
    pub(crate) fn start() -> Option<Self> {
        if !["chromium", "chromedriver"].iter().all(|program| is_installed(program)) {
            assert!(
                std::env::var_os(REQUIRED).is_none(),
                "{REQUIRED}: chromium or its driver is missing"
            );
            println!("SKIPPED: apt install chromium chromium-driver, and the pages are tested");
            return None;
        }
        let folder = tempfile::tempdir().expect("a scratch folder");
        let port = free_port();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).stdin(Stdio::null()).stdout(Stdio::null());
        // What the browser leaves behind goes with the folder.
        command.env("HOME", folder.path()).env("TMPDIR", folder.path());
        let driver = Program::start("chromedriver", folder.path(), &mut command);
        wait_for("the driver", LONG, || TcpStream::connect(("127.0.0.1", port)).ok());
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities(&folder.path().join("profile")));
        let address = format!("http://127.0.0.1:{port}");
        let client = runtime.block_on(builder.connect(&address)).expect("the browser starts");
        Some(Self { client, runtime, _driver: driver, port, _folder: folder })
    }

    pub(crate) fn open(&self, address: &str) {
        self.runtime.block_on(self.client.goto(address)).expect("the page");
    }

    pub(crate) fn address(&self) -> String {
        self.runtime.block_on(self.client.current_url()).expect("an address").to_string()
    }

    pub(crate) fn size(&self, width: u32, height: u32) {
        let mobile = width < 500;
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.developer("Emulation.setDeviceMetricsOverride", &metrics);
    }

    pub(crate) fn dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.developer("Emulation.setEmulatedMedia", &features);
    }

    /// Runs a function body in the page.
    pub(crate) fn run(&self, script: &str) -> Value {
        let result = self.runtime.block_on(self.client.execute(script, Vec::new()));
        result.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// What is seen of the first element of this selector; empty if there is none.
    pub(crate) fn text(&self, selector: &str) -> String {
        let found = self.run(&format!(
            "const one = document.querySelector({selector:?}); \
             return one?.checkVisibility() ? one.innerText ?? one.textContent : ''"
        ));
        found.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the text of an element says so.
    pub(crate) fn reads(&self, selector: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let found = super::common::program::poll(LONG, || {
            last = self.text(selector);
            wanted(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| {
            panic!(
                "{selector} says {last:?}; errors: {:?}; page: {}",
                self.errors(),
                self.text("body")
            )
        })
    }

    /// Waits until there is an element of this selector that can be seen, and clicks it.
    pub(crate) fn click(&self, selector: &str) {
        let clicked = super::common::program::poll(LONG, || {
            let element = self.find(selector)?;
            self.runtime.block_on(element.click()).ok()
        });
        clicked.unwrap_or_else(|| panic!("{selector} cannot be clicked: {}", self.text("body")));
    }

    /// Types over what stands in a field.
    pub(crate) fn fill(&self, selector: &str, text: &str) {
        let element = self.find(selector).unwrap_or_else(|| panic!("no {selector}"));
        self.runtime.block_on(element.clear()).expect("a field");
        self.runtime.block_on(element.send_keys(text)).expect("a field");
    }

    /// Waits for the entry of a list to pick from, and picks it.
    pub(crate) fn pick(&self, selector: &str, value: &str) {
        let picked = super::common::program::poll(LONG, || {
            let element = self.find(selector)?;
            self.runtime.block_on(element.select_by_value(value)).ok()
        });
        picked.unwrap_or_else(|| panic!("{selector} has no {value}: {}", self.text(selector)));
    }

    /// Keys for whatever has the focus.
    pub(crate) fn press(&self, keys: &str) {
        let element = self.runtime.block_on(self.client.active_element()).expect("a focus");
        self.runtime.block_on(element.send_keys(keys)).expect("keys");
    }

    /// Id of what has the focus, or its tag where it has no id.
    pub(crate) fn focus(&self) -> String {
        let focus =
            self.run("const at = document.activeElement; return at.id || at.tagName.toLowerCase()");
        focus.as_str().unwrap_or_default().to_owned()
    }

    /// Everything the page logged as an error since the last time. The browser itself logs each answer
    /// of 400 and above.
    pub(crate) fn errors(&self) -> Vec<String> {
        let log = self.raw("se/log", &json!({"type": "browser"}));
        let lines = log["value"].as_array().cloned().unwrap_or_default();
        let errors = lines.iter().filter(|line| line["level"] == "SEVERE");
        errors.filter_map(|line| Some(line["message"].as_str()?.to_owned())).collect()
    }

    pub(crate) fn write_picture(&self, file: &Path) {
        let png = self.runtime.block_on(self.client.screenshot()).expect("a picture");
        fs::write(file, png).expect("the folder is writable");
    }

    fn find(&self, selector: &str) -> Option<Element> {
        self.runtime.block_on(self.client.find(Locator::Css(selector))).ok()
    }

    /// A command of the browser's own protocol.
    fn developer(&self, command: &str, parameters: &Value) {
        let answer = self.raw("goog/cdp/execute", &json!({"cmd": command, "params": parameters}));
        assert!(answer["value"]["error"].is_null(), "{command}: {answer}");
    }

    /// What WebDriver has no command for, in the same session.
    fn raw(&self, path: &str, body: &Value) -> Value {
        let session = self.runtime.block_on(self.client.session_id()).expect("a session");
        let session = session.expect("a session");
        let body = body.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the driver");
        stream.set_read_timeout(Some(LONG)).expect("an option");
        let head = format!(
            "POST /session/{session}/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("the driver reads");
        let mut reader = BufReader::new(stream);
        let (mut length, mut line) = (0, String::new());
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).expect("the driver answers");
            let lower = line.to_ascii_lowercase();
            let told =
                lower.strip_prefix("content-length:").and_then(|text| text.trim().parse().ok());
            length = told.unwrap_or(length);
        }
        let mut answer = Vec::new();
        reader.take(length).read_to_end(&mut answer).expect("the driver answers");
        serde_json::from_slice(&answer)
            .unwrap_or_else(|error| panic!("{path}: {error}: {answer:?}"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver's end alone would leave the browser.
        let _ = self.runtime.block_on(self.client.clone().close());
    }
}

fn capabilities(profile: &Path) -> Map<String, Value> {
    let arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--window-size=1280,900",
        &format!("--user-data-dir={}", profile.display()),
    ];
    let capabilities = json!({
        "goog:chromeOptions": {"args": arguments},
        "goog:loggingPrefs": {"browser": "ALL"},
    });
    capabilities.as_object().expect("an object").clone()
}

fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}
