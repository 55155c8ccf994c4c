//! Stories that cannot run here. Libtest decides which tests are ignored before it runs any, so they show as passed; all the
//! more must be said of them, and after everything else.

use std::{
    env,
    io::Write as _,
    process::{ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

const REQUIRED: &str = "WEIGHTSD_REQUIRE_ALL_TESTS";
/// Set for the "test" below, which is none.
const EXAMPLE: &str = "WEIGHTSD_TEST_NOT_RUN";
/// Waits for the end of what it is told, which is the end of this program, and repeats it.
const SUMMARY: &str = r#"told=$(cat) && printf 'NOT RUN, although shown as ok (%s):\n%s\n' "$(printf '%s\n' "$told" | grep -c '')" "$told" >&2"#;

/// What the summary is told. Open for as long as this program runs.
static TOLD: Mutex<Option<ChildStdin>> = Mutex::new(None);

/// Says that the running test was not run, and why: at the end of the run, whatever is captured. Where
/// `WEIGHTSD_REQUIRE_ALL_TESTS` is 1, as in CI, that is a failure.
pub fn not_run(why: &str) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(env::var_os(REQUIRED).is_none_or(|value| value != "1"), "{REQUIRED} is set, and {test} cannot run: {why}");
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let told = told.get_or_insert_with(|| {
        let mut command = Command::new("sh");
        // A test that spawns after this one holds no copy of the pipe: its end of it is closed when another program begins.
        command.args(["-c", SUMMARY]).stdin(Stdio::piped()).stdout(Stdio::null());
        command.spawn().unwrap().stdin.take().unwrap()
    });
    writeln!(told, "    {test}: {why}").unwrap();
}

#[test]
#[ignore = "not a test: what cannot run in another run of this program"]
fn example() {
    if env::var_os(EXAMPLE).is_some() {
        not_run("nothing can run it");
    }
}

#[test]
fn what_was_not_run_is_told_at_the_end_and_fails_where_all_is_required() {
    let run = |required: &str| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "not_run::example", "--ignored"]).env(EXAMPLE, "1").env(REQUIRED, required);
        command.output().unwrap()
    };
    let passed = run("0");
    assert!(passed.status.success(), "{passed:?}");
    let said = String::from_utf8(passed.stderr).unwrap();
    assert_eq!(said, "NOT RUN, although shown as ok (1):\n    not_run::example: nothing can run it\n");
    let failed = run("1");
    assert!(!failed.status.success(), "{failed:?}");
    assert!(String::from_utf8(failed.stdout).unwrap().contains("cannot run: nothing can run it"));
}
