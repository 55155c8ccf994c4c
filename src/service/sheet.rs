//! The sheet of a component: its table of tensors, written once and handed over with the files.

use std::{io, sync::Arc};

use prost::Message;
use weightsd_core::sheet::{Row, SheetWriter, Written};

use super::messages;
use crate::{
    component::{Component, SealedSheet},
    handle::Daemon,
    lanes::{Disks, Kind, MayBlock, SealedFile, Task},
};

/// The sheet of a component, made at the first call. `None` when it cannot be made, for as long as the component is loaded: its
/// holders are sent pages.
pub(super) async fn of<'a>(component: &'a Arc<Component>, daemon: &Daemon) -> Option<&'a SealedSheet> {
    let make = async || {
        let (operation, disks) = ("writing the table of tensors", Disks::default());
        let task = Task { operation, subject: &component.name, disks: &disks, kind: Kind::Load, limit: None };
        let written = Arc::clone(component);
        let made = daemon.lanes().run(task, move |may| write(&written, may)).await;
        let made = made.map_err(io::Error::other).flatten();
        made.inspect_err(|error| tracing::warn!(id = %component.id, %error, "tensors are sent in pages")).ok()
    };
    component.sheet.get_or_init(make).await.as_ref()
}

/// May wait for the folder of temporary files where the system has no sealed memory.
fn write(component: &Component, may: &MayBlock<'_>) -> io::Result<SealedSheet> {
    let mut sheet = SheetWriter::default();
    for placed in &component.tensors {
        let message = messages::tensor(placed);
        let row = Row {
            name: &message.name,
            source_name: &message.source_name,
            dtype: placed.dtype,
            shape: &message.shape,
            segment: message.segment,
            offset: message.offset,
            length: message.length,
            operation: message.operation.cast_unsigned(),
            packing: None,
            coding: None,
        };
        let packing = message.packing.as_ref().map(Message::encode_to_vec);
        let coding = message.coding.as_ref().map(Message::encode_to_vec);
        let written = Written { row, packing: packing.as_deref(), coding: coding.as_deref() };
        sheet.add(&written).map_err(io::Error::other)?;
    }
    let words = sheet.finish().map_err(io::Error::other)?;
    let bytes: &[u8] = bytemuck::cast_slice(&words);
    Ok(SealedSheet { file: SealedFile::of(bytes, may)?, bytes: bytes.len() as u64 })
}
