//! The layers of weightsd, held to ARCHITECTURE.md: its tables "Rooms" and "Floors" say who may use whom, and these
//! tests read every path in the source against them.
//!
//! A *use* is any path to another module: in a `use`, in an expression, a type or a pattern, or in the tokens of a macro.
//! Tests inside a crate (`#[cfg(test)]`) may use what they like. A name that a module passes on (`pub use`) counts as
//! the module that owns it and as the module that was named.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::{UseTree, spanned::Spanned, visit::Visit};

/// How often a name may be passed on from module to module.
const HOPS_MAX: usize = 8;

/// The path of a module in its crate; empty for the root.
type Module = Vec<String>;

/// One path in the source that leads to another module.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    from: Module,
    to: Place,
    file: PathBuf,
    line: usize,
    /// The path as it stands there.
    written: String,
    /// Whether it ends in a type, a trait, a variant or a constant, which are written with a capital, or is a type's
    /// default, which does no more than a variant.
    of_a_type: bool,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// A module of the same crate.
    Here(Module),
    /// A crate that is not this one.
    Crate(String),
}

/// What name resolution needs to know of one module.
#[derive(Debug, Default)]
struct Scope {
    file: PathBuf,
    /// Names that `use` brings in, with the path that each stands for.
    imports: BTreeMap<String, Vec<String>>,
}

/// A path from the root of a crate.
enum Absolute {
    Here(Vec<String>),
    Crate(String),
}

/// The modules below a folder, and the uses in them.
struct Source {
    folder: String,
    scopes: BTreeMap<Module, Scope>,
    uses: Vec<Use>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Source {
    fn read(folder: &str) -> Self {
        let folder = folder.trim_end_matches('/');
        let mut files = Vec::new();
        rust_files(&root().join(folder), &mut files);
        let mut scopes = BTreeMap::new();
        let mut paths = Vec::new();
        for file in files {
            let module = module_of(file.strip_prefix(root().join(folder)).expect("it was found below the folder"));
            let text = fs::read_to_string(&file).expect("sources can be read");
            let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let file = file.strip_prefix(root()).expect("it lies in the repository").to_owned();
            let mut collector =
                Collector { module: module.clone(), file: file.clone(), paths: Vec::new(), imports: BTreeMap::new() };
            collector.visit_file(&syntax);
            scopes.insert(module, Scope { file, imports: collector.imports });
            paths.extend(collector.paths);
        }
        let mut source = Self { folder: folder.to_owned(), scopes, uses: Vec::new() };
        source.uses = paths.iter().flat_map(|path| source.resolve(path)).collect();
        source.uses.sort();
        source.uses.dedup();
        source
    }

    /// The uses that a path stands for: of the module it names, and of the one that owns what it names.
    fn resolve(&self, written: &Written) -> Vec<Use> {
        let leaf = written.segments.last().expect("a path has a segment");
        let make = |to: Place| Use {
            from: written.module.clone(),
            to,
            file: written.file.clone(),
            line: written.line,
            written: written.segments.join("::"),
            of_a_type: leaf.starts_with(char::is_uppercase) || leaf == "default",
        };
        match self.absolute(&written.module, &written.segments, HOPS_MAX) {
            Some(Absolute::Here(path)) => {
                let named = self.deepest(&path);
                let owner = self.owner(&path, HOPS_MAX);
                let others = [named, owner].into_iter().filter(|to| *to != written.module);
                others.map(|to| make(Place::Here(to))).collect()
            }
            Some(Absolute::Crate(name)) => vec![make(Place::Crate(name))],
            None => Vec::new(),
        }
    }

    /// `segments`, as they stand in `module`, from the crate's root. `None` for names that nothing in the file brings in,
    /// which are the module's own or the prelude's.
    fn absolute(&self, module: &[String], segments: &[String], hops: usize) -> Option<Absolute> {
        let (first, rest) = segments.split_first()?;
        let below = |base: &[String]| Some(Absolute::Here([base, rest].concat()));
        match first.as_str() {
            "crate" => below(&[]),
            "self" => below(module),
            "super" => {
                let (_, parent) = module.split_last()?;
                match rest.first() {
                    Some(next) if next == "super" => self.absolute(parent, rest, hops),
                    _ => below(parent),
                }
            }
            first if first.starts_with("weightsd") || first == "mlx_sys" => Some(Absolute::Crate(first.to_owned())),
            first if self.scopes.contains_key(&[module, &[first.to_owned()]].concat()) => {
                Some(Absolute::Here([module, segments].concat()))
            }
            first => {
                let import = self.scopes[module].imports.get(first).filter(|import| import[0] != first)?;
                self.absolute(module, &[import, rest].concat(), hops.checked_sub(1)?)
            }
        }
    }

    /// The longest beginning of a path that is a module.
    fn deepest(&self, path: &[String]) -> Module {
        let mut beginnings = (0..=path.len()).rev().map(|length| &path[..length]);
        beginnings.find(|path| self.scopes.contains_key(*path)).unwrap_or_default().to_vec()
    }

    /// The module in which what `path` names is written down, however often it is passed on.
    fn owner(&self, path: &[String], hops: usize) -> Module {
        let module = self.deepest(path);
        let import = path.get(module.len()).and_then(|name| self.scopes[&module].imports.get(name));
        match import.and_then(|import| self.absolute(&module, import, HOPS_MAX)) {
            Some(Absolute::Here(further)) if hops > 0 => {
                self.owner(&[&further[..], &path[module.len() + 1..]].concat(), hops - 1)
            }
            _ => module,
        }
    }
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(folder).expect("source folders exist").map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// `hub/http.rs` is `[hub, http]`, `hub/mod.rs` is `[hub]`, `lib.rs` and `main.rs` are the root.
fn module_of(path: &Path) -> Module {
    let mut parts: Module = path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// A path as it stands in the source.
struct Written {
    module: Module,
    file: PathBuf,
    line: usize,
    segments: Vec<String>,
}

struct Collector {
    module: Module,
    file: PathBuf,
    paths: Vec<Written>,
    imports: BTreeMap<String, Vec<String>>,
}

impl Collector {
    fn add(&mut self, segments: Vec<String>, span: Span) {
        self.paths.push(Written {
            module: self.module.clone(),
            file: self.file.clone(),
            line: span.start().line,
            segments,
        });
    }

    fn add_use(&mut self, tree: &UseTree, prefix: &[String]) {
        match tree {
            UseTree::Path(path) => self.add_use(&path.tree, &[prefix, &[path.ident.to_string()]].concat()),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.add_use(item, prefix)),
            UseTree::Glob(glob) => self.add(prefix.to_vec(), glob.span()),
            UseTree::Name(name) => {
                let last = name.ident.to_string();
                let path = if last == "self" { prefix.to_vec() } else { [prefix, &[last]].concat() };
                self.imports.insert(path.last().expect("a use has a name").clone(), path.clone());
                self.add(path, name.span());
            }
            UseTree::Rename(rename) => {
                let path = [prefix, &[rename.ident.to_string()]].concat();
                self.imports.insert(rename.rename.to_string(), path.clone());
                self.add(path, rename.span());
            }
        }
    }

    fn add_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => self.add_tokens(group.stream()),
                TokenTree::Ident(first) if !(at > 0 && is_colon(&tokens[at - 1])) => {
                    let mut segments = vec![first.to_string()];
                    let mut rest = &tokens[at + 1..];
                    while let [one, two, TokenTree::Ident(next), further @ ..] = rest
                        && is_colon(one)
                        && is_colon(two)
                    {
                        segments.push(next.to_string());
                        rest = further;
                    }
                    if segments.len() > 1 {
                        self.add(segments, first.span());
                    }
                }
                _ => {}
            }
        }
    }
}

fn is_colon(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':')
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
    })
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            _ => return syn::visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(segments, path.span());
        syn::visit::visit_path(self, path);
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {} // `pub(super)` uses nothing.

    fn visit_macro(&mut self, made: &'ast syn::Macro) {
        self.visit_path(&made.path);
        self.add_tokens(made.tokens.clone());
    }
}

/// One row of the table "Rooms" of ARCHITECTURE.md.
struct Room {
    name: String,
    /// Files, and folders with a `/` at the end, from the repository's root.
    paths: Vec<String>,
    may_use: BTreeSet<String>,
    /// Rooms whose types it may use and whose functions it may not call.
    may_name_types_of: BTreeSet<String>,
}

fn architecture() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md can be read")
}

/// The cells of the first table below a heading, without its head.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, section) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading `{heading}`"));
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.skip(2).map(cells).collect()
}

/// What stands between backticks.
fn code(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

fn rooms() -> Vec<Room> {
    let mut rooms: Vec<Room> = Vec::new();
    for row in table(&architecture(), "## Rooms") {
        let [name, paths, _, uses] = &row[..] else { panic!("a row of Rooms has four cells: {row:?}") };
        let (whole, types) = uses.split_once("types of").unwrap_or((uses, ""));
        let mut may_use: BTreeSet<String> = code(whole).collect();
        if whole.contains("all above") {
            may_use.extend(rooms.iter().map(|room| room.name.clone()));
        }
        let Some(name) = code(name).next() else { continue }; // Tests have no name, and may use everything.
        rooms.push(Room { name, paths: code(paths).collect(), may_use, may_name_types_of: code(types).collect() });
    }
    rooms
}

/// The room of a file: the one with the longest path that leads to it.
fn room_of<'a>(rooms: &'a [Room], file: &str) -> Option<&'a Room> {
    let leads = |path: &String| path == file || path.ends_with('/') && file.starts_with(path.as_str());
    let found = rooms.iter().filter_map(|room| {
        let longest = room.paths.iter().filter(|path| leads(path)).map(String::len).max()?;
        Some((longest, room))
    });
    found.max_by_key(|(longest, _)| *longest).map(|(_, room)| room)
}

#[derive(Default)]
struct Package {
    name: String,
    /// From the repository's root, with `/` at the end; empty for the root itself.
    folder: String,
    /// What it is built from, tests and examples apart.
    dependencies: BTreeSet<String>,
}

/// The crates of this workspace.
fn packages() -> Vec<Package> {
    let manifest = |folder: &str| -> toml::Table {
        let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("members have a manifest");
        text.parse().unwrap_or_else(|error| panic!("{folder}/Cargo.toml: {error}"))
    };
    let members = manifest("")["workspace"]["members"].as_array().expect("a list").clone();
    members
        .iter()
        .map(|member| {
            let folder = member.as_str().expect("a path").trim_end_matches('.');
            let manifest = manifest(folder);
            let tables = ["dependencies", "build-dependencies"].into_iter().filter_map(|table| manifest.get(table));
            Package {
                name: manifest["package"]["name"].as_str().expect("a name").to_owned(),
                folder: if folder.is_empty() { String::new() } else { format!("{folder}/") },
                dependencies: tables
                    .filter_map(toml::Value::as_table)
                    .flat_map(|table| table.keys().cloned())
                    .collect(),
            }
        })
        .collect()
}

/// The name of the room that a crate is, by the crate's name in Rust.
fn rooms_of_crates(rooms: &[Room]) -> BTreeMap<String, String> {
    let of = |package: Package| {
        let room = rooms.iter().find(|room| !package.folder.is_empty() && room.paths.contains(&package.folder))?;
        Some((package.name.replace('-', "_"), room.name.clone()))
    };
    packages().into_iter().filter_map(of).collect()
}

fn list<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<_> = names.into_iter().map(String::as_str).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

fn assert_none(problems: &BTreeSet<String>) {
    let lines: Vec<_> = problems.iter().map(String::as_str).collect();
    assert!(problems.is_empty(), "\n{}\n", lines.join("\n"));
}

#[test]
fn no_room_uses_another_against_the_table_of_rooms() {
    let rooms = rooms();
    let crates = rooms_of_crates(&rooms);
    let mut problems = BTreeSet::new();
    let folders: Vec<String> = packages().into_iter().map(|package| format!("{}src", package.folder)).collect();
    for source in folders.iter().map(|folder| Source::read(folder)) {
        for one in &source.uses {
            let file = one.file.display().to_string();
            let Some(from) = room_of(&rooms, &file) else {
                if !matches!(file.as_str(), "src/lib.rs" | "src/main.rs") {
                    problems.insert(format!("{file} is in no room of ARCHITECTURE.md"));
                }
                continue;
            };
            let to = match &one.to {
                Place::Here(module) => source
                    .scopes
                    .get(module)
                    .and_then(|scope| room_of(&rooms, &scope.file.display().to_string()))
                    .map(|room| room.name.as_str()),
                Place::Crate(name) => crates.get(name).map(String::as_str),
            };
            let Some(to) = to.filter(|to| *to != from.name) else { continue };
            let types = from.may_name_types_of.contains(to);
            if !(from.may_use.contains(to) || types && one.of_a_type) {
                let may = list(&from.may_use);
                let only = if types {
                    format!(", and only types of {}", list(&from.may_name_types_of))
                } else {
                    String::new()
                };
                let Use { line, written, .. } = one;
                problems.insert(format!("{file}:{line}: `{written}` is {to}'s; {} may use {may}{only}", from.name));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn no_crate_depends_on_another_against_the_table_of_rooms() {
    let rooms = rooms();
    let crates = rooms_of_crates(&rooms);
    let mut problems = BTreeSet::new();
    for package in packages() {
        let inside = |room: &&Room| {
            room.paths
                .iter()
                .any(|path| path.starts_with(&format!("{}src/", package.folder)) || *path == package.folder)
        };
        let own: Vec<_> = rooms.iter().filter(inside).collect();
        let may_use: BTreeSet<_> =
            own.iter().flat_map(|room| room.may_use.iter().chain(&room.may_name_types_of)).cloned().collect();
        for dependency in &package.dependencies {
            if let Some(room) = crates.get(&dependency.replace('-', "_")).filter(|room| !may_use.contains(*room)) {
                let Package { name, folder, .. } = &package;
                problems
                    .insert(format!("{folder}Cargo.toml: `{dependency}` is {room}; {name} may use {}", list(&may_use)));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn the_rooms_stand_on_one_another_without_a_circle() {
    let rooms = rooms();
    let known: BTreeSet<_> = rooms.iter().map(|room| &room.name).collect();
    let mut problems = BTreeSet::new();
    let mut above = BTreeSet::new();
    for room in &rooms {
        for used in room.may_use.iter().chain(&room.may_name_types_of) {
            if !known.contains(used) {
                problems.insert(format!("`{}` may use `{used}`, which is no room", room.name));
            } else if !above.contains(used) {
                problems.insert(format!("`{}` may use `{used}`, which stands below it in the table", room.name));
            }
        }
        above.insert(&room.name);
        problems.extend(
            room.paths.iter().filter(|path| !root().join(path).exists()).map(|path| format!("there is no {path}")),
        );
    }
    assert_none(&problems);
}

#[test]
fn modules_of_core_use_lower_floors_only() {
    let floors = table(&architecture(), "### Floors of core");
    let floors: Vec<(usize, String)> =
        floors.iter().enumerate().flat_map(|(floor, row)| code(&row[0]).map(move |name| (floor, name))).collect();
    let floor_of = |name: &String| floors.iter().find(|(_, other)| other == name).map(|(floor, _)| *floor);
    let mut problems = BTreeSet::new();
    let source = Source::read("core/src");
    for one in &source.uses {
        let Place::Here(to) = &one.to else { continue };
        let (Some(from), Some(to)) = (one.from.first(), to.first()) else { continue };
        if from == to {
            continue;
        }
        let (Some(below), Some(above)) = (floor_of(to), floor_of(from)) else {
            problems.insert(format!("`{from}` or `{to}` is on no floor of core in ARCHITECTURE.md"));
            continue;
        };
        if below >= above {
            let Use { file, line, written, .. } = one;
            let file = file.display();
            problems
                .insert(format!("{file}:{line}: `{written}` is {to}'s, on floor {below}; {from} is on floor {above}"));
        }
    }
    assert_none(&problems);
}

#[test]
fn no_crate_has_a_circle_of_imports() {
    let mut problems = BTreeSet::new();
    for package in packages() {
        let source = Source::read(&format!("{}src", package.folder));
        for parent in source.scopes.keys() {
            let edges = source.edges_below(parent);
            if let Some(circle) = circle(&edges) {
                let folder = [std::slice::from_ref(&source.folder), &parent[..]].concat().join("/");
                let steps = circle.iter().zip(circle.iter().cycle().skip(1)).map(|(from, to)| {
                    let Use { file, line, written, .. } = &edges[from][to];
                    format!("    {}:{line}: `{written}` of {to}", file.display())
                });
                let steps: Vec<_> = steps.collect();
                problems.insert(format!("in {folder}, modules import each other in a circle:\n{}", steps.join("\n")));
            }
        }
    }
    assert_none(&problems);
}

/// Which module uses which, with an example.
type Edges = BTreeMap<String, BTreeMap<String, Use>>;

impl Source {
    /// The uses between the children of `parent`, their own children counted as them.
    fn edges_below(&self, parent: &[String]) -> Edges {
        let child = |module: &Module| module.strip_prefix(parent).and_then(|rest| rest.first()).cloned();
        let mut edges = Edges::new();
        for one in &self.uses {
            let Place::Here(to) = &one.to else { continue };
            if let (Some(from), Some(to)) = (child(&one.from), child(to))
                && from != to
            {
                edges.entry(from).or_default().entry(to).or_insert_with(|| one.clone());
            }
        }
        edges
    }
}

/// A shortest circle, each module followed by one that it uses.
fn circle(edges: &Edges) -> Option<Vec<String>> {
    edges.keys().filter_map(|start| road_back(edges, start)).min_by_key(Vec::len)
}

fn road_back(edges: &Edges, start: &String) -> Option<Vec<String>> {
    let mut roads = vec![vec![start.clone()]];
    let mut seen = BTreeSet::new();
    while !roads.is_empty() {
        let mut further = Vec::new();
        for road in roads {
            for next in edges.get(&road[road.len() - 1]).into_iter().flat_map(BTreeMap::keys) {
                if next == start {
                    return Some(road);
                }
                if seen.insert(next.clone()) {
                    further.push([&road[..], std::slice::from_ref(next)].concat());
                }
            }
        }
        roads = further;
    }
    None
}
