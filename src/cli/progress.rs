//! Progress on a terminal: one bar for the whole, and while files are downloaded one for each. Elsewhere indicatif draws
//! nothing.

use std::{collections::HashMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use weightsd_client::{
    Phase, Progress,
    proto::{FileProgress, FileState},
};

/// Bars that a terminal of ordinary height has room for.
const FILES_MAX: usize = 8;

/// The bars of one command.
pub(super) struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    files: HashMap<String, ProgressBar>,
}

impl Bars {
    pub(super) fn new() -> Self {
        let all = MultiProgress::new();
        let total = all.add(ProgressBar::new(0).with_style(style("{spinner} {msg} {wide_bar} {bytes}/{total_bytes}")));
        total.enable_steady_tick(Duration::from_millis(200));
        Self { all, total, files: HashMap::new() }
    }

    pub(super) fn show(&mut self, progress: &Progress) {
        self.total.set_message(doing(progress));
        self.total.set_length(progress.bytes_total);
        self.total.set_position(progress.bytes_done);
        let shown: Vec<_> = progress.files.iter().filter(|file| is_moving(file)).take(FILES_MAX).collect();
        self.files.retain(|path, bar| {
            let stays = shown.iter().any(|file| file.path == *path);
            if !stays {
                bar.finish_and_clear();
            }
            stays
        });
        for file in shown {
            let all = &self.all;
            let bar = self.files.entry(file.path.clone()).or_insert_with(|| {
                all.add(ProgressBar::new(0).with_style(style("    {msg} {wide_bar} {bytes}/{total_bytes}")))
            });
            let name = file.path.rsplit('/').next().unwrap_or_default();
            bar.set_message(file_line(name, file));
            bar.set_length(file.bytes_total);
            bar.set_position(file.bytes_done);
        }
    }

    /// Clears the bars.
    pub(super) fn clear(self) {
        self.files.values().for_each(ProgressBar::finish_and_clear);
        self.total.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn is_moving(file: &FileProgress) -> bool {
    !matches!(file.state(), FileState::Waiting | FileState::Unspecified)
}

/// A file and, unless bytes simply come, what is done with it. `name` is what the screen has room for: its path, or the
/// last part of it.
pub(super) fn file_line(name: &str, file: &FileProgress) -> String {
    match file.state() {
        FileState::Elsewhere => {
            format!("{name} (waits for another program, which has locked it; the log names the lock)")
        }
        FileState::Checking => format!("{name} (checking what is there)"),
        FileState::Retrying => format!("{name} (trying again)"),
        FileState::Waiting | FileState::Downloading | FileState::Unspecified => name.to_owned(),
    }
}

/// Whether nothing comes because other programs have locked all files that are left.
fn waits_for_others(progress: &Progress) -> bool {
    let mut moving = progress.files.iter().filter(|file| is_moving(file)).peekable();
    moving.peek().is_some() && moving.all(|file| file.state() == FileState::Elsewhere)
}

/// Describes a step in one line: `downloading, 3 of 9 files, 12 MB/s, 2m left (with 1 other)`.
pub(super) fn doing(progress: &Progress) -> String {
    let mut line = match progress.phase() {
        Phase::Unspecified | Phase::Resolve => "finding the model".to_owned(),
        Phase::Download if waits_for_others(progress) => {
            format!("waiting for another program's download, {} of {} files", progress.files_done, progress.files_total)
        }
        Phase::Download => format!("downloading, {} of {} files", progress.files_done, progress.files_total),
        Phase::Verify => format!("verifying {}", progress.file),
        Phase::Open => format!("reading headers {}", progress.file),
        Phase::Audit => "auditing".to_owned(),
        Phase::Derive if progress.bytes_total == 0 => "waiting to compute".to_owned(),
        Phase::Derive => format!("computing {}", progress.file),
        Phase::Prefetch => "reading ahead".to_owned(),
        Phase::Upload => "copying onto the card".to_owned(),
    };
    if progress.bytes_per_second > 0 {
        line.push_str(&format!(", {}/s", super::output::bytes(progress.bytes_per_second)));
    }
    if let Some(remaining) = progress.remaining.and_then(|time| Duration::try_from(time).ok()) {
        line.push_str(&format!(", {} left", super::output::span(remaining)));
    }
    match progress.sharers {
        0 | 1 => {}
        2 => line.push_str(" (with 1 other)"),
        sharers => line.push_str(&format!(" (with {} others)", sharers - 1)),
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_in_a_line() {
        let mut progress = Progress {
            files_done: 3,
            files_total: 9,
            bytes_per_second: 12_000_000,
            remaining: Some(prost_types::Duration { seconds: 120, nanos: 0 }),
            sharers: 3,
            ..Progress::default()
        };
        progress.set_phase(Phase::Download);
        assert_eq!(doing(&progress), "downloading, 3 of 9 files, 12 MB/s, 2m left (with 2 others)");
        let file = |state: FileState| FileProgress { state: state.into(), ..FileProgress::default() };
        let waiting = Progress { files_done: 1, files_total: 3, sharers: 1, ..Progress::default() };
        let mut waiting = Progress { files: vec![file(FileState::Elsewhere), file(FileState::Waiting)], ..waiting };
        waiting.set_phase(Phase::Download);
        assert_eq!(doing(&waiting), "waiting for another program's download, 1 of 3 files");
        waiting.files.push(file(FileState::Downloading));
        assert_eq!(doing(&waiting), "downloading, 1 of 3 files");
    }
}
