use std::{fs, path::Path, time::Duration};

use ratatui::{Terminal, backend::TestBackend};
use weightsd_client::proto::{
    Event, EventKind, GetStatusResponse, Holder, Limits, LoadedComponent, Phase, Progress, ResolvedModel,
    RunningDownload,
};

use super::*;

const GIB: u64 = 1 << 30;

fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn component(id: &str, name: &str, holders: Vec<Holder>) -> LoadedComponent {
    LoadedComponent {
        id: id.repeat(32),
        name: name.to_owned(),
        model: Some(ResolvedModel {
            repo: "Tongyi-MAI/Z-Image-Turbo".to_owned(),
            commit: "f332072aa78be7aecdf3ee76d5c247082da564a6".to_owned(),
            ..ResolvedModel::default()
        }),
        tensor_bytes: 12_309_866_400,
        expires: if holders.is_empty() { at(1_090) } else { None },
        holders,
        requests: 41,
        ..LoadedComponent::default()
    }
}

fn view() -> View {
    let holder = |pid, name: &str| Holder { pid, name: name.to_owned(), ..Holder::default() };
    let held = component("ab", "transformer", vec![holder(11, "zimage"), holder(12, "python")]);
    let event = |sequence, kind: EventKind, message: &str| Event {
        sequence,
        time: at(900 + i64::try_from(sequence).unwrap()),
        kind: kind.into(),
        message: message.to_owned(),
        ..Event::default()
    };
    let mut view = View {
        status: Some(GetStatusResponse {
            version: "9.9.9".to_owned(),
            pid: 4711,
            started: at(100),
            components: 2,
            leases: 2,
            tensor_bytes: 24_619_732_800,
            memory_bytes: 31_000_000,
            connections: 3,
            hub_endpoint: "https://huggingface.co".to_owned(),
            limits: Some(Limits {
                connections: 1024,
                image_bytes: 25 * GIB,
                image_budget: 100 * GIB,
                ..Limits::default()
            }),
            downloads: vec![RunningDownload {
                what: "vae of org/other@main".to_owned(),
                progress: Some(Progress {
                    phase: Phase::Download.into(),
                    bytes_done: 40_000_000,
                    bytes_total: 160_000_000,
                    ..Progress::default()
                }),
            }],
            ..GetStatusResponse::default()
        }),
        components: vec![held, component("cd", "text_encoder", Vec::new())],
        ..View::default()
    };
    view.add(event(1, EventKind::Loaded, "transformer of Tongyi-MAI/Z-Image-Turbo: 521 tensors"));
    view.add(event(2, EventKind::Leased, "zimage (11) holds transformer"));
    view
}

/// A frame of that size as text, without spaces at the ends of lines.
fn frame(view: &View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    terminal.draw(|frame| draw::draw(frame, view, now)).unwrap();
    let buffer = terminal.backend().buffer();
    let cells = |y| (0..width).map(move |x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| cells(y).trim_end().to_owned() + "\n").collect()
}

#[test]
fn a_frame_shows_what_is_lent_what_is_under_way_and_what_happened() {
    let said = frame(&view(), 120, 26);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/top.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &said).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    assert!(said == expected, "{} differs (UPDATE_GOLDEN=1 takes this):\n{said}", golden.display());
}

#[test]
fn every_size_of_a_terminal_can_be_drawn() {
    for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 100)] {
        frame(&view(), width, height);
        frame(&View::default(), width, height);
    }
}

#[test]
fn a_daemon_that_is_away_is_said_over_what_was_last_known() {
    let mut view = view();
    view.problem = Some("nobody listens".to_owned());
    let said = frame(&view, 100, 24);
    assert!(said.contains("no answer: nobody listens") && said.contains("weightsd 9.9.9"), "{said}");
    assert!(frame(&View::default(), 100, 24).contains("waiting for the daemon"));
}

#[test]
fn the_list_moves_and_stops_at_its_ends() {
    let mut view = view();
    view.scroll(1);
    let said = frame(&view, 100, 24);
    assert!(said.contains("text_encoder") && !said.contains("abababababab"), "{said}");
    view.scroll(5);
    assert_eq!(view.scrolled, 1);
    view.scroll(-5);
    assert_eq!(view.scrolled, 0);
}
