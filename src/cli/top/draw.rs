//! One frame of `weightsd top`, from a [`View`] and the time.

use std::time::SystemTime;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Style, Stylize as _},
    text::Line,
    widgets::{Block, Borders, Gauge, Paragraph, Row, Table},
};
use weightsd_client::proto::{Event, GetStatusResponse, Limits, LoadedComponent, Progress};

use super::{
    super::{
        output::{bytes, short, span},
        progress::doing,
        status::{card_line, departed_line, model_name},
    },
    view::{View, between},
};

/// Lines of work that are shown at most.
const WORK_MAX: usize = 6;
/// Lines of events that are shown where there is room.
const EVENTS: u16 = 8;

pub(super) fn draw(frame: &mut Frame<'_>, view: &View, now: SystemTime) {
    let work = view.status.as_ref().map(work).unwrap_or_default();
    let height = |lines: usize| if lines == 0 { 0 } else { u16::try_from(lines + 1).unwrap_or(u16::MAX) };
    let [head, images, components, working, events, foot] = frame.area().layout(&Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(1),
        Constraint::Min(4),
        Constraint::Length(height(work.len().min(WORK_MAX))),
        Constraint::Length(EVENTS + 1),
        Constraint::Length(1),
    ]));
    match &view.status {
        Some(status) => {
            frame.render_widget(Paragraph::new(header(status, now)), head);
            if let Some(limits) = &status.limits {
                frame.render_widget(computed(limits), images);
            }
        }
        None => frame.render_widget(Paragraph::new("waiting for the daemon"), head),
    }
    list(frame, components, view, now);
    frame.render_widget(
        Paragraph::new(work.into_iter().take(WORK_MAX).collect::<Vec<_>>()).block(titled("UNDER WAY")),
        working,
    );
    happened(frame, events, view, now);
    let keys = Line::from("q quits, up and down move the list").dim();
    let problem = view.problem.as_ref().map(|problem| Line::from(format!("no answer: {problem}")).red());
    frame.render_widget(problem.unwrap_or(keys), foot);
}

fn titled(title: &str) -> Block<'_> {
    Block::new().borders(Borders::TOP).title(title)
}

fn header(status: &GetStatusResponse, now: SystemTime) -> Vec<Line<'static>> {
    let up = span(between(status.started, now));
    let most = status.limits.as_ref().map(|limits| limits.connections).unwrap_or_default();
    let offline = if status.offline { " (offline)" } else { "" };
    vec![
        Line::from(format!("weightsd {} (pid {}), up {up}", status.version, status.pid)).bold(),
        Line::from(format!(
            "{} components, {} lent or warm, {} leases, {} of {most} connections, {} of memory for itself",
            status.components,
            bytes(status.tensor_bytes),
            status.leases,
            status.connections,
            bytes(status.memory_bytes)
        )),
        Line::from(match status.log_lines_lost {
            0 => format!("hub: {}{offline}", status.hub_endpoint),
            lost => format!("hub: {}{offline}; {lost} lines of the log were lost", status.hub_endpoint),
        }),
    ]
}

fn computed(limits: &Limits) -> Gauge<'static> {
    #[expect(clippy::cast_precision_loss, reason = "a bar has a hundred steps at most")]
    let ratio = (limits.image_bytes as f64 / limits.image_budget.max(1) as f64).clamp(0.0, 1.0);
    let label = format!("computed: {} of {}", bytes(limits.image_bytes), bytes(limits.image_budget));
    Gauge::default().ratio(ratio).label(label).gauge_style(Style::new().cyan())
}

fn list(frame: &mut Frame<'_>, area: Rect, view: &View, now: SystemTime) {
    let rows = view.components.iter().skip(view.scrolled).map(|component| row(component, now));
    let widths = [
        Constraint::Length(12),
        Constraint::Fill(3),
        Constraint::Length(16),
        Constraint::Length(14),
        Constraint::Length(8),
        Constraint::Fill(2),
    ];
    let header = Row::new(["ID", "MODEL", "COMPONENT", "SIZE", "REQUESTS", "HELD BY"]).bold();
    let block = titled("COMPONENTS");
    frame.render_widget(Table::new(rows, widths).header(header).block(block), area);
}

fn row(component: &LoadedComponent, now: SystemTime) -> Row<'static> {
    let held = match component.expires {
        Some(expires) => format!("nobody, dropped in {}", span(between(Some(expires), now))),
        None => {
            let names = component.holders.iter().map(|holder| format!("{} ({})", holder.name, holder.pid));
            names.collect::<Vec<_>>().join(", ")
        }
    };
    let row = Row::new([
        short(&component.id).to_owned(),
        component.model.as_ref().map(model_name).unwrap_or_default(),
        component.name.clone(),
        match &component.card {
            Some(_) => format!("{} GPU", bytes(component.tensor_bytes)),
            None => bytes(component.tensor_bytes),
        },
        component.requests.to_string(),
        held,
    ]);
    if component.expires.is_some() { row.dim() } else { row }
}

/// A line for each card, download and load.
fn work(status: &GetStatusResponse) -> Vec<Line<'static>> {
    let line = |what: String, progress: &Option<Progress>| {
        let progress = progress.clone().unwrap_or_default();
        let (done, total) = (bytes(progress.bytes_done), bytes(progress.bytes_total));
        let far = if progress.bytes_total > 0 { format!("{done} of {total}, ") } else { String::new() };
        Line::from(format!("{what}: {far}{}", doing(&progress)))
    };
    let downloads = status.downloads.iter().map(|it| line(format!("downloading {}", it.what), &it.progress));
    let loads = status.loads.iter().map(|it| line(format!("loading {} of {}", it.component, it.spec), &it.progress));
    let cards = status.cards.iter().flat_map(|card| {
        let departed = card.departed.iter().map(departed_line);
        std::iter::once(card_line(card)).chain(departed).map(Line::from)
    });
    cards.chain(downloads).chain(loads).collect()
}

fn happened(frame: &mut Frame<'_>, area: Rect, view: &View, now: SystemTime) {
    let room = usize::from(area.height.saturating_sub(1));
    let from = view.events.len().saturating_sub(room);
    let line = |event: &Event| {
        let kind = event.kind().as_str_name().trim_start_matches("EVENT_KIND_").to_ascii_lowercase();
        let ago = span(between(event.time, now));
        Line::from(format!("{ago:>12} ago  {kind:<15} {}", event.message))
    };
    let lines: Vec<Line<'_>> = view.events.iter().skip(from).map(line).collect();
    frame.render_widget(Paragraph::new(lines).block(titled("EVENTS")), area);
}
