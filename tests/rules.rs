//! Rules of the house that a machine can check: documents point at what exists, and files stay short.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use quote::ToTokens as _;
use syn::{spanned::Spanned as _, visit::Visit};

/// Lines that a file may have before its tests. A longer one says why: a comment with [`REASON`].
const LINES_MAX: usize = 500;
const REASON: &str = "Longer than 500 lines:";
/// Written by bindgen.
const GENERATED: &str = "mlx-sys/src/bindings.rs";

/// Phrases that docs/STYLE.md rules out, in lower case.
const PHRASES: [&str; 7] =
    ["see the module", "of which", "whoever", "such a one", "has made", "so many bytes", "what there is"];

/// The documents whose links and tests are followed.
const DOCUMENTS: [&str; 14] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/STYLE.md",
    "docs/GLOSSARY.md",
    "docs/FLEET.md",
    "docs/MACOS.md",
    "tests/README.md",
    "bench/README.md",
    "client/c/README.md",
    "client/swift/README.md",
    "container/README.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files of this repository below a folder, from its root. Not what is built or fetched.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                found.push(path.strip_prefix(root()).expect("it lies below").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn assert_none(problems: &BTreeSet<String>) {
    let lines: Vec<_> = problems.iter().map(String::as_str).collect();
    assert!(problems.is_empty(), "\n{}\n", lines.join("\n"));
}

#[test]
fn documents_point_at_files_and_headings_that_exist() {
    let mut problems = BTreeSet::new();
    for document in DOCUMENTS {
        let text = read(document);
        let folder = Path::new(document).parent().unwrap_or(Path::new(""));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(link, _)| link)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { PathBuf::from(document) } else { folder.join(path) };
            if !root().join(&target).exists() {
                problems.insert(format!("{document}: there is no `{link}`"));
            } else if !heading.is_empty() && !read(&target).lines().any(|line| anchor(line).as_deref() == Some(heading))
            {
                problems.insert(format!("{document}: {} has no heading for `#{heading}`", target.display()));
            }
        }
    }
    assert_none(&problems);
}

/// What a forge calls a heading in links.
fn anchor(line: &str) -> Option<String> {
    let title = line.strip_prefix('#')?.trim_start_matches('#').trim();
    let kept = title
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>();
    Some(kept.replace(' ', "-"))
}

/// Every test that stands behind a guarantee exists: stories and modules by their file, tests by their function.
#[test]
fn guarantees_name_tests_that_exist() {
    let mut problems = BTreeSet::new();
    let tables = [
        ("ARCHITECTURE.md", "## Guarantees", 2),
        ("SECURITY.md", "## What holds today", 2),
        ("docs/MACOS.md", "## Metal and arrays", 3),
        ("docs/MACOS.md", "## launchd", 3),
        ("docs/MACOS.md", "## Sockets and descriptors", 3),
        ("docs/MACOS.md", "## What is kept, and disks", 3),
        ("docs/MACOS.md", "## The build", 3),
        ("docs/MACOS.md", "## Tests", 3),
    ];
    for (document, heading, column) in tables {
        let text = read(document);
        let (_, section) = text.split_once(heading).unwrap_or_else(|| panic!("{document} has no `{heading}`"));
        let section = section.split("\n## ").next().unwrap_or_default();
        for row in section.lines().filter(|line| line.starts_with('|')) {
            let tests = row.split('|').nth(column).unwrap_or_default();
            for named in tests.split('`').skip(1).step_by(2) {
                if let Some(problem) = missing(named) {
                    problems.insert(format!("{document}: `{named}`: {problem}"));
                }
            }
        }
    }
    assert_none(&problems);
}

/// Why a test does not exist; `None` for what is neither a path nor a module.
fn missing(named: &str) -> Option<String> {
    if let Some((folder, pattern)) = named.rsplit_once('/').filter(|(_, file)| file.contains('*')) {
        let beginning = pattern.split('*').next().unwrap_or_default();
        let found = files(folder, "")
            .iter()
            .any(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning)));
        return (!found).then(|| "there is no such file".to_owned());
    }
    if named.contains('/') {
        return (!root().join(named).exists()).then(|| "there is no such file".to_owned());
    }
    let mut parts: Vec<&str> = named.split("::").collect();
    let base = match parts.remove(0) {
        "stories" => "tests/stories",
        "core" => "core/src",
        "it" => "core/tests/it",
        "client" => "client/src",
        _ if !named.contains("::") => return None,
        _ => {
            parts = named.split("::").collect();
            "src"
        }
    };
    let test = |file: &Path, name: &str| read(file).contains(&format!("fn {name}("));
    for length in (1..=parts.len()).rev() {
        let module: Vec<&str> = parts[..length].iter().copied().filter(|part| *part != "tests").collect();
        let path = Path::new(base).join(module.join("/"));
        for file in [path.with_extension("rs"), path.join("mod.rs")] {
            if root().join(&file).exists() {
                let rest = &parts[length..];
                return match rest {
                    [] => None,
                    ["tests"] => {
                        (!read(&file).contains("mod tests")).then(|| format!("{} has no tests", file.display()))
                    }
                    [.., name] => {
                        let beside = path.join("tests.rs");
                        let is_there = test(&file, name) || root().join(&beside).exists() && test(&beside, name);
                        (!is_there).then(|| format!("{} has no such test", file.display()))
                    }
                };
            }
        }
    }
    Some(format!("there is no such module in {base}"))
}

/// Comments of the source, and the documents, but not the one that quotes the phrases.
#[test]
fn comments_and_documents_say_it_plainly() {
    let mut problems = BTreeSet::new();
    let documents = files("", ".md").into_iter().chain(files("proto", ".proto"));
    for file in files("", ".rs").into_iter().chain(documents.filter(|file| file != Path::new("docs/STYLE.md"))) {
        let is_source = file.extension().is_some_and(|ending| ending == "rs");
        for (number, line) in read(&file).lines().enumerate() {
            let said = if is_source { line.split_once("//").map_or("", |(_, said)| said) } else { line }.to_lowercase();
            if let Some(phrase) = PHRASES.iter().find(|phrase| said.contains(*phrase)) {
                problems.insert(format!("{}:{}: `{phrase}`: see docs/STYLE.md", file.display(), number + 1));
            }
        }
    }
    assert_none(&problems);
}

/// `# Errors` says when, not which type.
#[test]
fn errors_are_documented_by_when_they_come() {
    let mut problems = BTreeSet::new();
    for file in files("", ".rs") {
        let text = read(&file);
        let lines: Vec<&str> = text.lines().map(|line| line.trim_start()).collect();
        for (number, pair) in lines.windows(2).enumerate().filter(|(_, pair)| pair[0] == "/// # Errors") {
            // What is left without links: `[`A`] or [`B`].` says nothing.
            let said = pair[1].trim_start_matches("/// ").split("[`");
            let said: String = said.map(|rest| rest.split_once("`]").map_or(rest, |(_, rest)| rest)).collect();
            if !said.replace("or", "").contains(char::is_alphabetic) {
                problems.insert(format!("{}:{}: does not say when", file.display(), number + 2));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn files_have_500_lines_at_most_before_their_tests() {
    let mut problems = BTreeSet::new();
    let is_source = |file: &PathBuf| file.iter().any(|folder| folder == "src" || folder == "build");
    for file in files("", ".rs").into_iter().filter(|file| is_source(file) && file != Path::new(GENERATED)) {
        let text = read(&file);
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        if lines > LINES_MAX && !text.contains(REASON) {
            problems.insert(format!("{} has {lines} lines before its tests", file.display()));
        }
    }
    assert_none(&problems);
}

/// cargo's own setting counts for builds in this tree, the build script's for builds from elsewhere, so that neither shows when
/// the other is gone. Both have to be the oldest macOS that MLX's package is for, and what CI wants.
#[test]
fn the_oldest_macos_is_the_same_wherever_it_is_said() {
    let wheels = read("mlx-sys/build/wheels.txt");
    let oldest = wheels.lines().find_map(|line| line.strip_prefix("aarch64-macos metal ")?.split(' ').nth(4));
    let oldest = oldest.expect("the package for macOS says for which");
    let compile = read("mlx-sys/build/compile.rs");
    for (place, text, expected) in [
        (
            ".cargo/config.toml",
            read(".cargo/config.toml"),
            format!("MACOSX_DEPLOYMENT_TARGET = {{ value = \"{oldest}\", force = true }}"),
        ),
        ("mlx-sys/build/compile.rs", compile.clone(), format!("const MACOS_MIN: &str = \"{oldest}\";")),
        ("mlx-sys/build/compile.rs", compile, "build.env(\"MACOSX_DEPLOYMENT_TARGET\", MACOS_MIN);".to_owned()),
        (".ci/macos", read(".ci/macos"), format!("shown == \"{oldest}\"")),
    ] {
        assert!(text.contains(&expected), "{place} lacks `{expected}`");
    }
}

/// Where files are asked for without a `MayBlock` at hand, and why that holds up no request.
const ASKS_DISKS: [(&str, &str); 14] = [
    ("src/cli/", "a command has a process of its own"),
    ("src/daemon/listener.rs", "before anybody is served, and in the lane of the socket's folder"),
    ("src/daemon/log_file.rs", "the log has a thread of its own"),
    ("src/daemon/process.rs", "whether there is a terminal; that is no disk"),
    ("src/daemon/settings/", "before anybody is served"),
    ("src/derive/", "parts of functions that have one, and a process of its own"),
    ("src/disk.rs", "asked by functions that have one"),
    ("src/private.rs", "asked by functions that have one"),
    ("src/resolve/", "parts of a stage, which has one"),
    ("src/snapshot/", "parts of a stage, which has one"),
    ("src/source/", "stores are asked in lanes, by stages and downloads"),
    ("src/sources/", "the token is read on the source's own threads"),
    ("src/lanes/", "this is where it is given out"),
    ("src/vram/loader.rs", "a process of its own"),
];

/// Calls that ask a disk, outside of functions and closures that take a `MayBlock`.
#[derive(Default)]
struct Asking {
    /// Whether a function around this place takes one.
    may_block: bool,
    found: Vec<(usize, String)>,
}

impl Asking {
    fn within(&mut self, signature: &str, visit: impl FnOnce(&mut Self)) {
        let before = self.may_block;
        self.may_block |= signature.contains("MayBlock");
        visit(self);
        self.may_block = before;
    }

    fn is_test(attributes: &[syn::Attribute]) -> bool {
        attributes.iter().any(|attribute| {
            let text = attribute.to_token_stream().to_string();
            text.contains("cfg (test)") || text.ends_with("test]")
        })
    }
}

impl<'ast> Visit<'ast> for Asking {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !Self::is_test(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !Self::is_test(&item.attrs) {
            self.within(&item.sig.to_token_stream().to_string(), |asking| syn::visit::visit_item_fn(asking, item));
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.within(&item.sig.to_token_stream().to_string(), |asking| syn::visit::visit_impl_item_fn(asking, item));
    }

    fn visit_expr_closure(&mut self, closure: &'ast syn::ExprClosure) {
        let inputs = closure.inputs.to_token_stream().to_string();
        self.within(&inputs, |asking| syn::visit::visit_expr_closure(asking, closure));
    }

    fn visit_expr_path(&mut self, path: &'ast syn::ExprPath) {
        let names: Vec<_> = path.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if let [.., of, name] = &names[..]
            && (of == "fs" || matches!(&**of, "File" | "PinnedFile" | "OpenOptions"))
            && name.starts_with(|first: char| first.is_lowercase())
            && !self.may_block
        {
            self.found.push((path.span().start().line, format!("{of}::{name}")));
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let name = call.method.to_string();
        let asks = ["exists", "canonicalize", "read_dir", "read_link", "symlink_metadata", "sync_all", "sync_data"];
        if asks.contains(&&*name) && !self.may_block {
            self.found.push((call.method.span().start().line, format!(".{name}")));
        }
        syn::visit::visit_expr_method_call(self, call);
    }
}

/// What a disk may keep waiting is not called where requests are served.
#[test]
fn disks_are_asked_where_that_may_block() {
    let mut problems = BTreeSet::new();
    let mut asking_rooms = BTreeSet::new();
    for file in files("src", ".rs").into_iter().filter(|file| !file.ends_with("tests.rs")) {
        let syntax = syn::parse_file(&read(&file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut asking = Asking::default();
        asking.visit_file(&syntax);
        let room = ASKS_DISKS.iter().find(|(room, _)| file.to_string_lossy().starts_with(room));
        if let Some((room, _)) = room.filter(|_| !asking.found.is_empty()) {
            asking_rooms.insert(*room);
            continue;
        }
        for (line, call) in asking.found {
            problems.insert(format!("{}:{line}: `{call}` without a `MayBlock`", file.display()));
        }
    }
    for (room, _) in ASKS_DISKS.iter().filter(|(room, _)| !asking_rooms.contains(room)) {
        problems.insert(format!("{room} asks no disk any more: take it off the list"));
    }
    assert_none(&problems);
}
