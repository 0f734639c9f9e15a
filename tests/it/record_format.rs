//! A reader in another language, written as docs/record-format.md describes the stored record.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use sessile::SessionLayer;

use crate::support::app::app;
use crate::support::{Browser, Server, store_with};

/// The reader of the document.
fn reader() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/record-format.md");
    let page = std::fs::read_to_string(path).expect("docs/record-format.md");
    let (_, code) = page.split_once("```python\n").expect("a block of Python");
    code.split("```").next().unwrap_or_default().to_owned()
}

/// Runs the reader on tokens, one a line, against a server, and returns what it found: principal and data, or `None`.
fn open(port: u16, tokens: &[&str]) -> Vec<String> {
    const DRIVER: &str = r#"
import socket, sys
def get(key):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as server:
        server.sendall(f"*2\r\n$3\r\nGET\r\n${len(key)}\r\n{key}\r\n".encode())
        reply = server.makefile("rb")
        length = int(reply.readline()[1:])
        return reply.read(length) if length >= 0 else None
for line in sys.stdin:
    record = open_session(line.strip("\n"), get)
    print(record and (record.get("principal"), json.dumps(record["data"], sort_keys=True)))
"#;
    let mut python = Command::new("python3")
        .args(["-c", &(reader() + DRIVER), &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("python3 does not start: install it. {error}"));
    let mut input = python.stdin.take().expect("a pipe");
    input
        .write_all((tokens.join("\n") + "\n").as_bytes())
        .expect("a reader");
    drop(input);
    let output = python.wait_with_output().expect("an end");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_reader_in_python_opens_a_session_by_its_cookie() {
    let server = Server::start();
    let store = store_with(&server.url(), |config| {
        config.key_prefix = "sessile:".to_owned()
    })
    .await;
    let app = app(SessionLayer::new(store));
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=cart&v=3%20books").await.ok();
    let anonymous = browser.token().to_owned();
    let before = open(server.port(), &[&anonymous]);
    assert_eq!(before, [r#"(None, '{"cart": "3 books"}')"#]);

    browser.get(&app, "/login?u=mia").await.ok();
    let signed_in = browser.token().to_owned();
    let forged = signed_in[..22].to_owned() + &"A".repeat(21);
    let tokens = [
        &*signed_in,
        &anonymous,
        &forged,
        "",
        "x",
        "{}",
        &"A".repeat(43),
    ];
    let found = open(server.port(), &tokens);
    let mut expected = vec![r#"('mia', '{"cart": "3 books"}')"#];
    expected.resize(tokens.len(), "None");
    assert_eq!(found, expected);

    browser.get(&app, "/logout").await.ok();
    assert_eq!(open(server.port(), &[&signed_in]), ["None"]);
}

#[tokio::test]
async fn a_reader_in_python_knows_the_secrets_that_a_second_login_added() {
    let server = Server::start();
    let store = store_with(&server.url(), |config| {
        config.key_prefix = "sessile:".to_owned()
    })
    .await;
    let app = app(SessionLayer::new(store));
    let mut first = Browser::default();
    first.get(&app, "/set?k=a&v=b").await.ok();
    // A double click on "sign in": both requests carry the same cookie.
    let mut second = first.clone();
    first.get(&app, "/login?u=mia").await.ok();
    second.get(&app, "/login?u=mia").await.ok();
    assert_ne!(first.token(), second.token());
    let found = open(server.port(), &[first.token(), second.token()]);
    assert_eq!(found, [r#"('mia', '{"a": "b"}')"#; 2]);
}
