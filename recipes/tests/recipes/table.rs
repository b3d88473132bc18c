//! The table of what holds, which names tests that there are.

use std::fs;
use std::path::Path;

#[test]
fn the_table_names_tests_that_there_are() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recipes");
    let sources = [&tests, &tests.join("lock")].map(|directory| {
        let files = fs::read_dir(directory).unwrap();
        let paths = files.map(|file| file.unwrap().path());
        let sources = paths.filter_map(|path| fs::read_to_string(path).ok());
        sources.collect::<String>()
    });
    let sources = sources.concat();
    let table = include_str!("../README.md");
    let named = table.split('`').skip(1).step_by(2);
    let tests: Vec<&str> = named
        .filter(|name| name.matches('_').count() > 1 && !name.contains(char::is_uppercase))
        .collect();
    assert!(tests.len() > 80);
    for test in tests {
        assert!(sources.contains(&format!("fn {test}(")), "{test}");
    }
}
