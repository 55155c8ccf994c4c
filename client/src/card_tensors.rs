//! The memory of a card, mapped into this process for reading.

use std::{os::fd::AsFd as _, sync::Arc};

use weightsd_gpu::{Access, Card, Context, GpuError, Mapping, Memory};

use crate::{CardComponent, CardTensor, on_card::Descriptors, table::Table};

/// The card that a text means: a UUID, `cuda` for the first one that this process sees, `cuda:1` for the second. Give its
/// UUID to [`LoadRequest::device`](crate::LoadRequest::device).
///
/// # Errors
/// When this process sees no such card.
pub fn card(device: &str) -> Result<Card, GpuError> {
    weightsd_gpu::resolve(device)
}

/// The tensors of a component in the memory of a card, mapped for reading. Clones share the mapping, which stays while one
/// clone lives, even after the lease ends or the daemon stops.
#[derive(Debug, Clone)]
pub struct CardTensors(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mapping: Mapping,
    table: Arc<Table>,
    /// Open until the memory is unmapped: fields are dropped in their order.
    _descriptors: Arc<Descriptors>,
}

impl CardComponent {
    /// Maps the memory of the card into this process, for reading: less than a millisecond, whatever its length, and no memory
    /// beside it. The first use of a card makes its context, which takes 0.1 s and half a gigabyte of its memory unless a library
    /// of this process made it before.
    ///
    /// # Errors
    /// When this process does not see the card, its driver refuses, or the load had no hold.
    pub fn map(&self) -> Result<CardTensors, GpuError> {
        let descriptors = self.memory.descriptors.as_ref().ok_or(GpuError::NotHeld)?;
        let context = Context::of(weightsd_gpu::find(self.memory.card)?)?;
        let memory = Memory::import(&context, descriptors.memory.as_fd(), self.memory.bytes)?;
        let mapping = memory.map(Access::Read)?;
        let (table, _descriptors) = (Arc::clone(&self.table), Arc::clone(descriptors));
        Ok(CardTensors(Arc::new(Inner { mapping, table, _descriptors })))
    }
}

impl CardTensors {
    /// The card, as this process sees it.
    #[must_use]
    pub fn card(&self) -> &Card {
        self.0.mapping.context().card()
    }

    /// The mapping, for copies through `weightsd_gpu`.
    #[must_use]
    pub fn mapping(&self) -> &Mapping {
        &self.0.mapping
    }

    /// All tensors, in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = CardTensor<'_>> {
        self.0.table.rows().map(|row| CardTensor { row })
    }

    /// The tensor of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<CardTensor<'_>> {
        Some(CardTensor { row: self.0.table.row(self.0.table.position(name)?) })
    }

    /// The address of a tensor of this component for kernels and copies of this process, which must only read there. It means
    /// nothing once the last clone of these tensors is gone.
    #[must_use]
    pub fn address(&self, tensor: CardTensor<'_>) -> u64 {
        // Every row was checked against the length of the memory.
        self.0.mapping.address() + tensor.row.offset
    }
}
