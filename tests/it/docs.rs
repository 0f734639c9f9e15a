//! The tests, files and headings that the documents name exist, and public types keep their conventions.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of a folder and of those below it.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut folders = vec![root().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files
}

/// The files of docs/ that are text, and not pictures.
fn texts() -> impl Iterator<Item = PathBuf> {
    let is_text = |path: &PathBuf| path.extension().is_some_and(|it| it == "md");
    files("docs").into_iter().filter(is_text)
}

/// The documents, by their paths.
fn documents() -> Vec<PathBuf> {
    let mut documents: Vec<_> = texts().collect();
    let names = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "sessile-cli/README.md",
        "sessile-tower-sessions/README.md",
    ];
    documents.extend(names.map(|name| root().join(name)));
    documents
}

/// Whether this is the file of a module, `NAME.rs` or `NAME/mod.rs`.
fn is_module(path: &Path, name: &str) -> bool {
    let is_its_folder = || path.parent().is_some_and(|folder| folder.ends_with(name));
    path.ends_with(format!("{name}.rs")) || path.ends_with("mod.rs") && is_its_folder()
}

#[test]
fn every_guarantee_names_tests_that_exist() {
    let documents: String = documents().iter().map(read).collect();
    let named = documents.split('`').skip(1).step_by(2);
    let tests: Vec<_> = named.filter_map(|name| name.split_once("::")).collect();
    let is_lower = |name: &str| name.chars().all(|it| it.is_ascii_lowercase() || it == '_');
    let is_test = |(module, name): &(&str, &str)| {
        let is_in_name = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_';
        !module.is_empty() && is_lower(module) && !name.is_empty() && name.chars().all(is_in_name)
    };
    let tests: Vec<_> = tests.into_iter().filter(is_test).collect();
    assert!(tests.len() > 40, "{tests:?}");
    let sources = [files("src"), files("tests/it")].concat();
    for (module, name) in tests {
        let there = sources
            .iter()
            .filter(|path| is_module(path, module))
            .any(|path| read(path).contains(&format!("fn {name}(")));
        assert!(
            there,
            "the documents name {module}::{name}, which does not exist"
        );
    }
    // Before the section of what is not promised, each list item ends with its tests.
    let guarantees = read("docs/guarantees.md");
    let promised = guarantees.split("## What is not promised").next().unwrap();
    for point in promised.split("\n- ").skip(1) {
        let point = point.split("\n\n").next().unwrap();
        assert!(point.trim_end().ends_with('`'), "no test behind: {point}");
    }
}

#[test]
fn every_link_of_a_document_leads_to_a_file_and_a_heading() {
    for document in documents() {
        let text = read(&document);
        for link in links(&text) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let in_repository = in_repository(path);
            if in_repository.is_none() && path.starts_with("https://") {
                continue;
            }
            let target = match (path, &in_repository) {
                ("", _) => document.clone(),
                (_, Some(path)) => root().join(path),
                (path, None) => document.parent().unwrap().join(path),
            };
            let target = target
                .canonicalize()
                .unwrap_or_else(|error| panic!("{}: {link}: {error}", document.display()));
            assert!(
                in_repository.is_some() || path.is_empty() || !document.ends_with("README.md"),
                "{}: {link}: docs.rs shows this text, and does not have the file: link it in the repository",
                document.display()
            );
            let is_in_book = document.starts_with(root().join("docs"));
            assert!(
                in_repository.is_some() || !is_in_book || target.starts_with(root().join("docs")),
                "{}: {link}: the book does not have this file, so link it in the repository",
                document.display()
            );
            if heading.is_empty() {
                continue;
            }
            let headings = read(&target);
            let mut headings = headings.lines().filter(|line| line.starts_with('#'));
            assert!(
                headings.any(|line| anchor(line) == heading),
                "{}: {link}",
                document.display()
            );
        }
    }
}

/// Where the links of this text lead: `[text](link)`, or `[text][label]` with a line `[label]: link`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let parts = |mark: &'static str, end: char| {
        let parts = text.split(mark).skip(1);
        parts.map(move |part| part.split(end).next().unwrap())
    };
    let labelled = parts("][", ']').map(move |label| {
        let defined = text.split_once(&format!("\n[{label}]: "));
        let (_, link) = defined.unwrap_or_else(|| panic!("no line for the label {label}"));
        link.lines().next().unwrap()
    });
    parts("](", ')').chain(labelled)
}

/// The path of a file that the web site of the repository shows, or sends as it is.
fn in_repository(link: &str) -> Option<&str> {
    let repository = env!("CARGO_PKG_REPOSITORY");
    let shown = link.strip_prefix(repository);
    let sent = link.strip_prefix("https://raw.githubusercontent.com/");
    let name = repository.strip_prefix("https://github.com/");
    let sent = sent.and_then(|link| link.strip_prefix(name.expect("a repository at GitHub")));
    shown
        .and_then(|path| path.strip_prefix("/blob/main/"))
        .or_else(|| sent?.strip_prefix("/main/"))
}

/// The anchor of a heading.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words
        .chars()
        .filter(|it| it.is_alphanumeric() || " -_".contains(*it));
    kept.map(|it| if it == ' ' { '-' } else { it }).collect()
}

#[test]
fn the_book_has_every_document() {
    let summary = read("docs/SUMMARY.md");
    for document in texts() {
        let name = document.strip_prefix(root().join("docs")).unwrap();
        let is_linked = summary.contains(&format!("]({})", name.display()));
        assert!(
            is_linked || name.ends_with("SUMMARY.md"),
            "{}",
            name.display()
        );
    }
}

/// The blocks of Rust in documents are compiled where a crate of the workspace includes the document.
#[test]
fn every_document_with_rust_is_tested() {
    let crates = ["src", "sessile-tower-sessions/src"].map(|folder| root().join(folder));
    let crates = crates.iter().filter(|folder| folder.exists());
    let sources: Vec<_> = crates
        .flat_map(|folder| files(folder.to_str().expect("a path")))
        .map(read)
        .collect();
    for document in texts() {
        let name = document.strip_prefix(root()).unwrap().display().to_string();
        let has_rust = read(&document).contains("```rust");
        let is_included = sources
            .iter()
            .any(|source| source.contains(&format!("/{name}\")")));
        assert!(!has_rust || is_included, "{name}");
    }
}

/// A new field then needs no new major version. Enums that applications create are excluded.
#[test]
fn variants_that_applications_only_read_are_non_exhaustive() {
    let enums = [
        ("src/error/config.rs", "ConfigError"),
        ("src/error/json.rs", "JsonErrorKind"),
        ("src/error/session.rs", "SessionError"),
        ("src/event.rs", "Event"),
        ("src/record/fingerprint.rs", "Fingerprint"),
    ];
    for (path, name) in enums {
        let source = read(path);
        let (_, body) = source.split_once(&format!("pub enum {name} {{")).unwrap();
        let body = body.split("\n}\n").next().unwrap();
        let lines: Vec<_> = body.lines().collect();
        let with_fields = |line: &str| {
            let variant = line
                .strip_prefix("    ")
                .and_then(|it| it.strip_suffix(" {"));
            variant.is_some_and(|it| it.starts_with(char::is_uppercase))
        };
        let variants: Vec<_> = (0..lines.len())
            .filter(|at| with_fields(lines[*at]))
            .collect();
        assert!(!variants.is_empty(), "{path}: {name}");
        for at in variants {
            let before = lines[at - 1].trim();
            assert_eq!(
                before,
                "#[non_exhaustive]",
                "{path}: {name}: {}",
                lines[at].trim()
            );
        }
    }
}

/// The names that a file of the crate re-exports.
fn reexports(path: &str) -> Vec<String> {
    let source = read(path);
    let uses = source.split("\npub use ").skip(1);
    let words = |one: &str| -> Vec<String> {
        let one = one.split(';').next().unwrap();
        let words = one.split(|letter: char| !letter.is_alphanumeric());
        let is_item = |word: &&str| word.starts_with(char::is_uppercase);
        words.filter(is_item).map(str::to_owned).collect()
    };
    uses.flat_map(words).collect()
}

#[test]
fn every_public_item_has_one_path() {
    let (root, store) = (reexports("src/lib.rs"), reexports("src/store/mod.rs"));
    for name in ["MemoryStore", "RedisStore", "SessionStore", "StoreError"] {
        assert!(root.iter().any(|item| item == name), "{name}: {root:?}");
    }
    for name in ["Loaded", "Stored", "StoreErrorKind", "Write"] {
        assert!(store.iter().any(|item| item == name), "{name}: {store:?}");
    }
    let both: Vec<_> = store.iter().filter(|item| root.contains(item)).collect();
    assert!(both.is_empty(), "{both:?}");
}
