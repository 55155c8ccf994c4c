//! The cards of this process, and how people name them.

use std::ffi::c_int;

use weightsd_core::card::CardId;

use crate::{
    GpuError,
    sys::{self, AllocationProperties, Calls, check},
};

/// A card that this process sees.
#[derive(Clone, Copy)]
pub struct Card {
    pub(crate) calls: &'static Calls,
    pub(crate) device: c_int,
    index: u32,
    id: CardId,
}

impl std::fmt::Debug for Card {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Card").field("index", &self.index).field("id", &self.id).finish_non_exhaustive()
    }
}

/// The cards that this process sees, in its own order, which `CUDA_VISIBLE_DEVICES` decides.
///
/// # Errors
/// When there is no driver, or it fails.
pub fn cards() -> Result<Vec<Card>, GpuError> {
    let calls = sys::calls()?;
    let mut count = 0;
    // SAFETY: writes one number.
    check(calls, "cuDeviceGetCount", unsafe { (calls.device_count)(&raw mut count) })?;
    (0..count).map(|index| card(calls, index)).collect()
}

fn card(calls: &'static Calls, index: c_int) -> Result<Card, GpuError> {
    let (mut device, mut uuid) = (0, [0; 16]);
    // SAFETY: writes one number.
    check(calls, "cuDeviceGet", unsafe { (calls.device_get)(&raw mut device, index) })?;
    // SAFETY: writes 16 bytes; the device comes from the driver.
    check(calls, "cuDeviceGetUuid", unsafe { (calls.device_uuid)(&raw mut uuid, device) })?;
    Ok(Card { calls, device, index: index.unsigned_abs(), id: CardId(uuid) })
}

/// The card of that UUID.
///
/// # Errors
/// When this process does not see it.
pub fn find(id: CardId) -> Result<Card, GpuError> {
    let cards = cards()?;
    let known = || cards.iter().map(Card::id).collect();
    cards
        .iter()
        .find(|card| card.id == id)
        .copied()
        .ok_or_else(|| GpuError::UnknownCard { wanted: id.to_string(), known: known() })
}

/// The card that a person means: a UUID, `cuda` for the first one that this process sees, `cuda:1` for the second.
///
/// # Errors
/// When the text means no card that this process sees.
pub fn resolve(device: &str) -> Result<Card, GpuError> {
    if let Ok(id) = device.parse() {
        return find(id);
    }
    let index = match device.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|index| index.parse::<usize>().ok()),
        None => None,
    };
    let cards = cards()?;
    let known = || cards.iter().map(Card::id).collect();
    index
        .and_then(|index| cards.get(index).copied())
        .ok_or_else(|| GpuError::UnknownCard { wanted: format!("{device:?}"), known: known() })
}

impl Card {
    /// Its UUID.
    #[must_use]
    pub fn id(&self) -> CardId {
        self.id
    }

    /// Its place among the cards that this process sees; other libraries of the process number it the same.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its memory is given in multiples of this, in bytes.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn granularity(&self) -> Result<u64, GpuError> {
        let (mut granularity, properties) = (0_usize, AllocationProperties::on(self.device));
        let minimum = sys::GRANULARITY_MINIMUM;
        // SAFETY: reads the structure and writes one number.
        let code = unsafe { (self.calls.granularity)(&raw mut granularity, &raw const properties, minimum) };
        check(self.calls, "cuMemGetAllocationGranularity", code)?;
        Ok(granularity.max(1) as u64)
    }
}
