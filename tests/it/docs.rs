//! What the documents say is there.

use std::path::{Path, PathBuf};

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => list(&path, files),
            false => files.push(path),
        }
    }
}

#[test]
fn every_sentence_of_the_guarantees_names_tests_that_exist() {
    let guarantees = read("docs/guarantees.md");
    let others = ["docs/migration.md", "docs/handlers.md", "docs/testing.md"]
        .map(read)
        .concat();
    let documents = guarantees.clone() + &others;
    let named = documents.split('`').skip(1).step_by(2);
    let tests: Vec<_> = named.filter_map(|name| name.split_once("::")).collect();
    let tests: Vec<_> = tests
        .into_iter()
        .filter(|(module, _)| {
            module
                .chars()
                .all(|letter| letter.is_lowercase() || letter == '_')
        })
        .collect();
    assert!(tests.len() > 40, "{tests:?}");
    let mut sources = Vec::new();
    for folder in ["src", "tests/it"] {
        list(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join(folder),
            &mut sources,
        );
    }
    for (module, name) in tests {
        let there = [format!("{module}.rs"), format!("{module}/mod.rs")]
            .iter()
            .flat_map(|home| sources.iter().filter(move |it| it.ends_with(home)))
            .any(|home| read(home).contains(&format!("fn {name}(")));
        assert!(
            there,
            "the documents name {module}::{name}, and there is no such test"
        );
    }
    // Up to what is not promised, each point of a list ends with its tests.
    let promised = guarantees.split("## What is not promised").next().unwrap();
    for point in promised.split("\n- ").skip(1) {
        let point = point.split("\n\n").next().unwrap();
        assert!(point.trim_end().ends_with('`'), "no test behind: {point}");
    }
}
