//! A load, from the request to mapped tensors.

use std::{fs::File, path::PathBuf, sync::Arc, time::Duration};

use tonic::Streaming;
use weightsd_core::handoff::Ticket;
use weightsd_proto::v1::{self, LoadComponentResponse, Progress};
use weightsd_segment::View;

use crate::{
    CardComponent, ClientError, Component, Files, Handoff, HandoffFailure, LoadRequest, ProtocolError, Tensors,
    connect::Service,
    deadline::Deadline,
    handoff::HandoffClient,
    holding::{Holding, Lease},
    incoming::{Incoming, Received},
    on_card::{CardMemory, Descriptors},
    table::{self, SegmentFile, Table},
};

/// Loads a component and maps its files.
pub(crate) async fn load(
    mut service: Service,
    handoff: &HandoffClient,
    mut request: LoadRequest,
    mut on_progress: impl FnMut(&Progress),
) -> Result<Component, ClientError> {
    if !request.message.device.is_empty() {
        return Err(ClientError::Device(
            "the request names a card, and files are wanted: `load_on_card` loads onto cards",
        ));
    }
    request.message.takes_clones = request.handoff == Handoff::Descriptors;
    request.message.takes_sheet = request.handoff == Handoff::Descriptors;
    let patience = request.deadline;
    let operation = format!("loading {}", request.message.component);
    let mut incoming = Incoming::default();
    let again = request.message.clone();
    let mut stream = begin(&mut service, request.message, &operation, patience).await?;
    read(&mut stream, &mut incoming, &operation, patience, Incoming::has_component, &mut on_progress).await?;

    // Receive the files while the table arrives: they come on connections of their own.
    let component = incoming.component()?;
    let files = table::files(&component.segments)?;
    let ticket = ticket(component, request.handoff)?;
    let with_sheet = if component.sheet_bytes > 0 { WithSheet::Yes } else { WithSheet::No };
    let receiving = format!("receiving the files of {}", component.name);
    let rest = read(&mut stream, &mut incoming, &operation, patience, Incoming::is_complete, &mut on_progress);
    let mapped = Deadline::after(patience).bound(&receiving, map(handoff, ticket, &files, with_sheet));
    let ((mapped, sheet), ()) = tokio::try_join!(mapped, rest)?;
    let (opened, views): (Vec<File>, Vec<View>) = mapped.into_iter().unzip();
    let kept = match request.files {
        Files::Closed => Vec::new(),
        Files::Kept => opened,
    };

    let Received { component, tensors, notices } = incoming.finish()?;
    let lengths: Vec<u64> = views.iter().map(|view| view.len() as u64).collect();
    let table = match sheet {
        Some(sheet) => Table::of_sheet(sheet, (component.sheet_bytes, component.tensor_count), &lengths)?,
        None => Table::of_pages(tensors, &lengths)?,
    };
    let lease = Lease { stream, notices, service };
    let holding = Holding::begin(lease, &component, again, patience);
    Ok(Component::new(component, Tensors::new(views, table), kept, holding))
}

/// Loads a component into the memory of a card, and takes its descriptor.
pub(crate) async fn load_on_card(
    mut service: Service,
    handoff: &HandoffClient,
    request: LoadRequest,
    mut on_progress: impl FnMut(&Progress),
) -> Result<CardComponent, ClientError> {
    let asked = request.message.device.clone();
    if asked.is_empty() {
        return Err(ClientError::Device("the request names no card: `device` takes its UUID"));
    }
    let patience = request.deadline;
    let operation = format!("loading {} onto {asked}", request.message.component);
    let mut incoming = Incoming::default();
    let mut stream = begin(&mut service, request.message, &operation, patience).await?;
    read(&mut stream, &mut incoming, &operation, patience, Incoming::is_complete, &mut on_progress).await?;
    let Received { component, tensors, notices } = incoming.finish()?;
    let other_place = || ProtocolError::OtherPlace { asked: asked.clone() };
    let memory = match &component.segments[..] {
        [v1::Segment { card: Some(memory), .. }] => memory,
        _ => return Err(other_place().into()),
    };
    let (card, bytes) = (memory.device.parse().map_err(|_| other_place())?, memory.bytes);
    let receiving = format!("receiving the memory of {}", component.name);
    let descriptors = match ticket(&component, Handoff::Descriptors)? {
        Some(ticket) => Some(Deadline::after(patience).bound(&receiving, receive(handoff, ticket)).await?),
        None => None,
    };
    let memory = CardMemory { card, bytes, descriptors: descriptors.map(Arc::new) };
    let table = Table::of_pages(tensors, &[bytes])?;
    Ok(CardComponent::new(component, memory, table, notices, (stream, service)))
}

/// The descriptors of the memory of a card.
async fn receive(handoff: &HandoffClient, ticket: Ticket) -> Result<Descriptors, ClientError> {
    const DESCRIPTORS: usize = 2;
    let found = handoff.fetch(ticket, DESCRIPTORS).await?;
    let [memory, tether] = <[_; DESCRIPTORS]>::try_from(found)
        .map_err(|found| HandoffFailure::Count { expected: DESCRIPTORS, found: found.len() })?;
    Ok(Descriptors { memory, _tether: tether })
}

async fn begin(
    service: &mut Service,
    message: v1::LoadComponentRequest,
    operation: &str,
    patience: Duration,
) -> Result<Streaming<LoadComponentResponse>, ClientError> {
    let call = async {
        let call = service.load_component(message).await;
        Ok(call.map_err(|status| ClientError::from_status(operation, status))?.into_inner())
    };
    Deadline::after(patience).bound(operation, call).await
}

/// Reads until `enough` is true or the stream ends. Fails after a silence of `patience`.
async fn read(
    stream: &mut Streaming<LoadComponentResponse>,
    incoming: &mut Incoming,
    operation: &str,
    patience: Duration,
    enough: impl Fn(&Incoming) -> bool,
    on_progress: &mut impl FnMut(&Progress),
) -> Result<(), ClientError> {
    while !enough(incoming) {
        let next = async { stream.message().await.map_err(|status| ClientError::from_status(operation, status)) };
        let message = Deadline::after(patience).bound(operation, next).await?;
        let Some(message) = message else { break };
        if let Some(progress) = incoming.accept(message)? {
            on_progress(&progress);
        }
    }
    Ok(())
}

/// A file and its mapping.
type Mapped = (File, View);

/// Whether a sheet comes after the files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WithSheet {
    Yes,
    No,
}

async fn map(
    handoff: &HandoffClient,
    ticket: Option<Ticket>,
    files: &[SegmentFile],
    with_sheet: WithSheet,
) -> Result<(Vec<Mapped>, Option<View>), ClientError> {
    match ticket {
        Some(ticket) => map_descriptors(handoff, ticket, files, with_sheet).await,
        None => Ok((map_paths(files.to_vec()).await?, None)),
    }
}

/// The ticket to exchange for descriptors. `None` when the client opens the files by path: by choice, or for want of a
/// lease.
fn ticket(component: &v1::Component, handoff: Handoff) -> Result<Option<Ticket>, ProtocolError> {
    let ticket = component.lease.as_ref().map_or(&[][..], |lease| &lease.ticket);
    match handoff {
        Handoff::Descriptors if !ticket.is_empty() => Ok(Some(Ticket::try_from(ticket)?)),
        Handoff::Descriptors | Handoff::Path => Ok(None),
    }
}

async fn map_descriptors(
    handoff: &HandoffClient,
    ticket: Ticket,
    files: &[SegmentFile],
    with_sheet: WithSheet,
) -> Result<(Vec<Mapped>, Option<View>), ClientError> {
    let sheets = usize::from(with_sheet == WithSheet::Yes);
    let mut fds = handoff.fetch(ticket, files.len() + sheets).await?;
    let sheet = fds.split_off(files.len()).pop().map(|sheet| View::map_sealed(&File::from(sheet)));
    let sheet = sheet.transpose().map_err(|source| ClientError::Map { path: "the table of tensors".into(), source })?;
    let map = |(fd, file): (_, &SegmentFile)| {
        let opened = File::from(fd);
        match View::map(&opened, &file.identity) {
            Ok(view) => Ok((opened, view)),
            Err(source) => Err(ClientError::Map { path: file.path.clone(), source }),
        }
    };
    Ok((fds.into_iter().zip(files).map(map).collect::<Result<_, _>>()?, sheet))
}

/// Runs on a thread of its own, because opening a path may wait for a network file system.
#[expect(
    clippy::disallowed_methods,
    reason = "the process of a client has no lanes, and no other call of it waits here"
)]
async fn map_paths(files: Vec<SegmentFile>) -> Result<Vec<Mapped>, ClientError> {
    let map = |file: SegmentFile| -> Result<Mapped, (PathBuf, _)> {
        View::open_and_map(&file.path, &file.identity).map_err(|source| (file.path, source))
    };
    tokio::task::spawn_blocking(move || files.into_iter().map(map).collect::<Result<Vec<_>, _>>())
        .await
        .map_err(std::io::Error::from)?
        .map_err(|(path, source)| ClientError::Map { path, source })
}

#[cfg(test)]
mod tests {
    use weightsd_proto::v1::Lease;

    use super::*;

    fn component(ticket: &[u8]) -> v1::Component {
        let lease = Some(Lease { ticket: ticket.to_vec(), ..Lease::default() });
        v1::Component { lease, ..v1::Component::default() }
    }

    #[test]
    fn a_ticket_is_used_when_there_is_one_and_it_is_wanted() {
        let whole = component(&[1; 16]);
        assert!(ticket(&whole, Handoff::Descriptors).unwrap().is_some());
        assert!(ticket(&whole, Handoff::Path).unwrap().is_none());
        assert!(ticket(&component(&[]), Handoff::Descriptors).unwrap().is_none());
        assert!(ticket(&v1::Component::default(), Handoff::Descriptors).unwrap().is_none());
        assert!(ticket(&component(&[1; 15]), Handoff::Descriptors).is_err());
    }
}
