//! Programs in C and C++ against the real daemon. `.ci/c` runs these tests again under valgrind and AddressSanitizer.

// `check.c` counts with glibc and /proc what is left behind.
#![cfg(target_os = "linux")]

mod daemon;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use daemon::{Home, Linked, Running, compile, eventually, prefix, tool};
use weightsd_samples::{Written, damage};

const VAE: &str = "vae";
const VAE_FILE: &str = "vae/diffusion_pytorch_model.safetensors";
const TRANSFORMER: &str = "transformer";

/// A home with a tiny model and the program `check`.
struct Scene {
    home: Home,
    written: Written,
    check: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        let home = Home::new();
        let written = home.tiny();
        let check = compile("tests/check.c", &prefix().join("include"), Linked::Shared, home.path());
        Scene { home, written, check }
    }

    /// Starts `check WHAT` on a component; `argument` is the component's manifest unless it is given.
    fn start(&self, what: &str, component: &str, argument: Option<&str>) -> Running {
        let manifest = self.home.manifest(&self.written, component);
        let (socket, model) = (self.home.socket(), self.home.model());
        let argument = argument.unwrap_or(manifest.to_str().unwrap());
        let arguments = [what, socket.to_str().unwrap(), model.to_str().unwrap(), component, argument];
        Running::start(&self.home, &self.check, &arguments)
    }
}

#[test]
fn every_tensor_has_the_bytes_of_its_file_also_after_connection_and_lease() {
    let scene = Scene::new();
    let _daemon = scene.home.daemon();
    for (component, count) in [(TRANSFORMER, 0), ("text_encoder", 0), (VAE, 244)] {
        let said = scene.start("values", component, None).end();
        let expected = if count > 0 { count } else { scene.written.tensors_of(component).count() };
        assert_eq!(said, format!("{expected} tensors"), "{component}");
    }
}

#[test]
fn a_program_that_is_linked_statically_reads_the_same() {
    let mut scene = Scene::new();
    scene.check = compile("tests/check.c", &prefix().join("include"), Linked::Static, scene.home.path());
    let _daemon = scene.home.daemon();
    assert_eq!(scene.start("values", VAE, None).end(), "244 tensors");
}

#[test]
fn quantised_layers_are_described() {
    let scene = Scene::new();
    let _daemon = scene.home.daemon();
    let said = scene.start("layers", "text_encoder", None).end();
    assert_eq!(said, "21 layers");
}

/// A safetensors file of these tensors (name, dtype, shape, length), all of whose bytes are 1.
fn write_ones(path: &Path, tensors: &[(&str, &str, &str, usize)]) {
    let (mut header, mut end) = (Vec::new(), 0);
    for (name, dtype, shape, length) in tensors {
        let range = format!("[{end},{}]", end + length);
        header.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{range}}}"#));
        end += length;
    }
    let header = format!("{{{}}}", header.join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.into_bytes());
    bytes.resize(bytes.len() + end, 1);
    fs::write(path, bytes).unwrap();
}

#[test]
fn layers_that_the_daemon_makes_plain_tell_their_coding() {
    let scene = Scene::new();
    let _daemon = scene.home.daemon();
    let model = scene.home.path().join("coded.safetensors");
    let tensors = [
        ("a.input_scale", "F32", "[]", 4),
        ("a.weight", "F8_E4M3", "[8,32]", 8 * 32),
        ("a.weight_scale", "F32", "[8,1]", 8 * 4),
        ("b.weight", "F32", "[2]", 8),
    ];
    write_ones(&model, &tensors);
    let program = compile("tests/coding.c", &prefix().join("include"), Linked::Shared, scene.home.path());
    let arguments = [scene.home.socket(), model].map(|path| path.to_str().unwrap().to_owned());
    let mut running = Running::start(&scene.home, &program, &arguments.each_ref().map(String::as_str));
    let lines = [
        "a.input_scale: scaled FP8, E4M3, its tensors, 5, 0 1x32 8x32",
        "a.weight: scaled FP8, E4M3, its tensors, 1, 0 1x32 8x32",
        "a.weight_scale: scaled FP8, E4M3, its tensors, 2, 0 1x32 8x32",
        "b.weight:",
    ];
    for line in lines {
        assert_eq!(running.line(), line);
    }
    running.end();
}

#[test]
fn what_is_mapped_survives_the_daemon_and_the_next_daemon_is_found() {
    let scene = Scene::new();
    let daemon = scene.home.daemon();
    let mut program = scene.start("survive", TRANSFORMER, None);
    assert_eq!(program.line(), "loaded");
    daemon.kill();
    program.go_on();
    assert_eq!(program.line(), "loaded");
    let _next = scene.home.daemon();
    program.go_on();
    program.end();
}

#[test]
fn a_holder_is_told_of_a_changed_file() {
    let scene = Scene::new();
    let daemon = scene.home.daemon();
    let mut program = scene.start("notice", VAE, None);
    assert_eq!(program.line(), "loaded");
    let tensor = scene.written.tensor(VAE, "decoder.conv_in.weight").unwrap();
    damage::flip_byte(&scene.home.model().join(VAE_FILE), tensor.range.start).unwrap();
    daemon.ask(&["load", scene.home.model().to_str().unwrap(), VAE, "--layout", "source"]);
    program.go_on();
    program.end();
}

#[test]
fn a_release_ends_the_lease_and_the_waiting_and_keeps_the_bytes() {
    let scene = Scene::new();
    let daemon = scene.home.daemon();
    let leases = |count: &str| {
        let status = daemon.ask(&["status", "--json"]);
        status.contains(&format!("\"leases\": {count}"))
    };
    let mut program = scene.start("release", VAE, None);
    assert_eq!(program.line(), "loaded");
    assert!(leases("1"), "{}", daemon.ask(&["status", "--json"]));
    program.go_on();
    assert_eq!(program.line(), "loaded");
    eventually("the lease has ended", || leases("0"));
    program.go_on();
    program.end();
}

#[test]
fn mistakes_are_errors_with_reason_and_hint() {
    let scene = Scene::new();
    let _daemon = scene.home.daemon();
    scene.start("errors", VAE, None).end();
}

#[test]
fn progress_is_told_and_a_load_can_be_given_up() {
    let scene = Scene::new();
    let _daemon = scene.home.daemon();
    scene.start("progress", VAE, Some(TRANSFORMER)).end();
}

#[test]
fn many_threads_may_use_one_connection() {
    let scene = Scene::new();
    let _daemon = scene.home.daemon();
    scene.start("threads", VAE, None).end();
}

#[test]
fn ten_thousand_loads_leave_nothing_behind() {
    let scene = Scene::new();
    let _daemon = scene.home.daemon();
    // The tools look at each of them, so that fewer do.
    let count = if tool().is_empty() { "10000" } else { "200" };
    println!("{}", scene.start("loads", VAE, Some(count)).end());
}

// `.ci/c` leaves it out under its tools, which need all of the address space for themselves.
#[test]
fn a_mapping_for_which_there_is_no_room_is_an_error() {
    let home = Home::new();
    let written = home.sparse();
    let check = compile("tests/check.c", &prefix().join("include"), Linked::Shared, home.path());
    let scene = Scene { home, written, check };
    let _daemon = scene.home.daemon();
    scene.start("memory", TRANSFORMER, None).end();
}

#[test]
fn the_examples_sum_a_tensor_and_follow_notices() {
    for example in ["examples/sum.c", "examples/sum.cpp"] {
        let scene = Scene::new();
        let daemon = scene.home.daemon();
        let program = compile(example, &prefix().join("include"), Linked::Shared, scene.home.path());
        let model = scene.home.model();
        let mut running = Running::start(&scene.home, &program, &[model.to_str().unwrap(), VAE]);
        let sum = running.line();
        let [name, dtype, value] = sum.split(' ').collect::<Vec<_>>()[..] else { panic!("{example}: {sum}") };
        assert_eq!((name, dtype), ("decoder.conv_in.bias", "BF16"), "{example}");
        let tensor = scene.written.tensor(VAE, name).unwrap();
        let bytes = scene.written.read(tensor).unwrap();
        let numbers =
            bytes.chunks(2).map(|pair| f32::from_bits(u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16));
        let expected: f64 = numbers.map(f64::from).sum();
        let found: f64 = value.parse().unwrap();
        assert!((found - expected).abs() <= 1e-5 * expected.abs(), "{example}: {found}, expected {expected}");
        drop(daemon);
        let _next = scene.home.daemon();
        // The goodbye may come first.
        let again = std::iter::repeat_with(|| running.line()).find(|line| !line.starts_with("notice 1: ")).unwrap();
        assert!(again.starts_with("notice 5: "), "{example}: {again}");
        running.kill();
    }
}

/// What a README has between fences of that language.
fn block(readme: &str, language: &str) -> String {
    let (_, rest) = readme.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_lines_of_the_readme_work() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let scene = Scene::new();
    let _daemon = scene.home.daemon();
    for (language, name) in [("c", "readme.c"), ("cpp", "readme.cpp")] {
        let source = scene.home.path().join(name);
        fs::write(&source, block(&readme, language)).unwrap();
        let program = compile(source.to_str().unwrap(), &prefix().join("include"), Linked::Shared, scene.home.path());
        let said = Running::start(&scene.home, &program, &[]).end();
        assert!(said.starts_with("decoder.conv_in.bias BF16: "), "{name}: {said}");
    }
}

/// The header of the first ABI, as it was when it was frozen.
fn frozen() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/abi/1")
}

#[test]
fn a_program_of_the_first_abi_works_with_this_library() {
    let mut scene = Scene::new();
    scene.check = compile("tests/check.c", &frozen(), Linked::Shared, scene.home.path());
    let _daemon = scene.home.daemon();
    assert_eq!(scene.start("values", VAE, None).end(), "244 tensors");
    scene.start("errors", VAE, None).end();
    scene.start("progress", VAE, Some(TRANSFORMER)).end();
}

#[test]
fn the_library_has_the_symbols_of_the_first_abi_and_no_others_but_ours() {
    let library = fs::canonicalize(prefix().join("lib/libweightsd.so.1")).unwrap();
    let output =
        Command::new("nm").args(["-D", "--defined-only", "--format=just-symbols"]).arg(library).output().unwrap();
    let found: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    let listed = fs::read_to_string(frozen().join("symbols")).unwrap();
    for symbol in listed.lines() {
        assert!(found.iter().any(|found| found == symbol), "{symbol} is missing");
    }
    // What the workspace as a whole brings in, because cargo then builds the client with MLX for all who use it.
    let unified = ["default_mlx_error_handler", "mach_approximate_time"];
    let is_strange = |symbol: &&String| !symbol.starts_with("weightsd_") && !unified.contains(&symbol.as_str());
    let strangers: Vec<_> = found.iter().filter(is_strange).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

/// A program that prints the place of every field and the value of every constant that the frozen header has.
fn layout_of(header: &str) -> String {
    let mut program = String::from("#include <stdio.h>\n#include <weightsd.h>\nint main(void) {\n");
    let mut fields: Vec<&str> = Vec::new();
    for line in header.lines().map(str::trim) {
        if line.starts_with("WEIGHTSD_") && line.contains(" = ") {
            let constant = line.split(' ').next().unwrap();
            program += &format!("printf(\"{constant} %d\\n\", (int){constant});\n");
        } else if line.starts_with("typedef ") && line.ends_with('{') {
            fields.clear();
        } else if let Some(name) = line.strip_prefix("} ").and_then(|rest| rest.strip_suffix(';')) {
            for field in fields.drain(..) {
                program += &format!(
                    "printf(\"{name}.{field} %zu %zu\\n\", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));\n"
                );
            }
        } else if line.ends_with(';') && !line.contains('(') && !line.starts_with(['/', '*']) {
            fields.push(line.trim_end_matches(';').rsplit([' ', '*']).next().unwrap());
        }
    }
    // An element of a list, whose size is the distance to the next one.
    program + "printf(\"weightsd_adapter %zu\\n\", sizeof(weightsd_adapter));\nreturn 0;\n}\n"
}

#[test]
fn every_field_and_constant_of_the_first_abi_is_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let header = fs::read_to_string(frozen().join("weightsd.h")).unwrap();
    let source = folder.path().join("layout.c");
    fs::write(&source, layout_of(&header)).unwrap();
    let print = |include: &Path| {
        let program = compile(source.to_str().unwrap(), include, Linked::Shared, folder.path());
        String::from_utf8(Command::new(program).output().unwrap().stdout).unwrap()
    };
    let then = print(&frozen());
    assert!(then.lines().count() > 120, "{then}");
    assert_eq!(then, print(&prefix().join("include")));
}
