//! Room on the disk for derived images: which are deleted so that another one fits, or why there is no room. Pure; the
//! same answer serves the dry run.

use std::time::SystemTime;

use crate::identity::ComponentId;

/// What is known of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageFacts {
    /// The component it is for.
    pub id: ComponentId,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was last asked for.
    pub used: SystemTime,
    /// Whether somebody holds a component in it.
    pub is_held: bool,
}

/// The limits, and how full the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that all images may take together.
    pub budget: u64,
    /// Bytes of images that are being written.
    pub writing: u64,
    /// Bytes that are free on the disk.
    pub free: u64,
    /// Bytes that stay free.
    pub floor: u64,
}

/// An image that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Which.
    pub id: ComponentId,
    /// Its length in bytes.
    pub bytes: u64,
    /// Whether the disk is why, and not the budget.
    pub for_disk: bool,
    /// Why, in words.
    pub reason: String,
}

/// What deleting images for the sake of the disk has brought so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Bytes of the images that were deleted.
    pub deleted: u64,
    /// Bytes by which the free space has grown.
    pub gained: u64,
}

impl Freed {
    /// Whether the disk keeps what is deleted, so that deleting more does not help: a snapshot has it (Time Machine,
    /// btrfs), or a process that holds the file open.
    #[must_use]
    pub const fn is_kept(self) -> bool {
        self.gained < self.deleted / 2
    }
}

/// Why an image has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// The budget is too small, whatever is deleted.
    #[error(
        "{needed} bytes are needed, the budget for derived images is {budget} bytes, and {held} of it are held or being \
         written"
    )]
    Budget {
        /// What is needed.
        needed: u64,
        /// The budget.
        budget: u64,
        /// Bytes of images that somebody holds or writes.
        held: u64,
    },
    /// The disk is too full, whatever is deleted.
    #[error(
        "{needed} bytes are needed, {free} are free on the disk, {floor} of them must stay free, and {unheld} could be freed"
    )]
    Disk {
        /// What is needed.
        needed: u64,
        /// What is free.
        free: u64,
        /// What must stay free.
        floor: u64,
        /// Bytes of images that nobody holds.
        unheld: u64,
    },
    /// Images were deleted, and the disk is as full as before.
    #[error(
        "{needed} bytes are needed, {free} are free on the disk, and {floor} of them must stay free; deleting {deleted} bytes \
         of images freed {gained}, because snapshots of the disk or other processes still hold them"
    )]
    Kept {
        /// What is needed.
        needed: u64,
        /// What is free.
        free: u64,
        /// What must stay free.
        floor: u64,
        /// Bytes of images that were deleted.
        deleted: u64,
        /// Bytes by which the free space has grown.
        gained: u64,
    },
}

/// The images that go so that one of `needed` bytes fits: those that nobody holds, the least recently used first, and no
/// more than it takes.
///
/// # Errors
/// When there is no room even without all images that nobody holds. Then none should be deleted.
pub fn make_room(images: &[ImageFacts], needed: u64, room: Room) -> Result<Vec<Removal>, NoRoom> {
    let sum = |held: bool| images.iter().filter(|image| image.is_held == held).map(|image| image.bytes).sum::<u64>();
    let (held, unheld) = (sum(true).saturating_add(room.writing), sum(false));
    if held.saturating_add(needed) > room.budget {
        return Err(NoRoom::Budget { needed, budget: room.budget, held });
    }
    if room.free.saturating_add(unheld) < needed.saturating_add(room.floor) {
        return Err(NoRoom::Disk { needed, free: room.free, floor: room.floor, unheld });
    }
    let mut candidates: Vec<&ImageFacts> = images.iter().filter(|image| !image.is_held).collect();
    candidates.sort_by_key(|image| (image.used, image.id));
    let (mut total, mut free, mut removals) = (held.saturating_add(unheld), room.free, Vec::new());
    for image in candidates {
        let (over_budget, too_full) =
            (total.saturating_add(needed) > room.budget, free < needed.saturating_add(room.floor));
        let reason = match (over_budget, too_full) {
            (false, false) => break,
            (true, _) => "the least recently used, and the budget for derived images is spent",
            (false, true) => "the least recently used, and the disk is full",
        };
        let for_disk = !over_budget;
        removals.push(Removal { id: image.id, bytes: image.bytes, for_disk, reason: reason.to_owned() });
        total -= image.bytes;
        free += image.bytes;
    }
    Ok(removals)
}

/// How safe an image is from the images that will be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Somebody holds a component in it: it stays.
    Held,
    /// It goes when its turn comes.
    InTurn {
        /// Images that go before it.
        before: usize,
        /// Their bytes.
        bytes: u64,
        /// The bytes of the largest new image for which it need not go; `None` when any new image takes it along, because the
        /// budget or the disk is overdrawn already.
        spares: Option<u64>,
    },
}

/// What would push the image of `id` out: the plan of [`make_room`], read from the other side. `None` when there is no such
/// image.
#[must_use]
pub fn standing(images: &[ImageFacts], id: ComponentId, room: Room) -> Option<Standing> {
    let own = images.iter().find(|image| image.id == id)?;
    if own.is_held {
        return Some(Standing::Held);
    }
    let is_before = |image: &&ImageFacts| !image.is_held && (image.used, image.id) < (own.used, own.id);
    let (mut before, mut bytes) = (0, 0_u64);
    for image in images.iter().filter(is_before) {
        before += 1;
        bytes = bytes.saturating_add(image.bytes);
    }
    let total = images.iter().fold(room.writing, |sum, image| sum.saturating_add(image.bytes));
    let for_budget = room.budget.checked_sub(total.saturating_sub(bytes));
    let for_disk = room.free.saturating_add(bytes).checked_sub(room.floor);
    Some(Standing::InTurn { before, bytes, spares: for_budget.zip(for_disk).map(|(budget, disk)| budget.min(disk)) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn image(number: u8, bytes: u64, is_held: bool) -> ImageFacts {
        let id = format!("{number:064x}").parse().unwrap();
        ImageFacts { id, bytes, used: SystemTime::UNIX_EPOCH + Duration::from_secs(number.into()), is_held }
    }

    fn gone(images: &[ImageFacts], needed: u64, room: Room) -> Result<Vec<u64>, NoRoom> {
        make_room(images, needed, room).map(|removals| removals.iter().map(|removal| removal.bytes).collect())
    }

    #[test]
    fn the_least_recently_used_go_and_no_more_than_it_takes() {
        let images = [image(3, 30, false), image(1, 10, false), image(2, 20, true), image(4, 40, false)];
        let room = |budget, free| Room { budget, writing: 0, free, floor: 5 };
        assert_eq!(gone(&images, 50, room(150, 1000)), Ok(vec![]));
        assert_eq!(gone(&images, 50, room(149, 1000)), Ok(vec![10]));
        assert_eq!(gone(&images, 50, room(139, 1000)), Ok(vec![10, 30]));
        assert_eq!(gone(&images, 50, room(150, 54)), Ok(vec![10]));
        assert_eq!(gone(&images, 50, room(150, 15)), Ok(vec![10, 30]));
        assert_eq!(gone(&images, 130, room(150, 1000)), Ok(vec![10, 30, 40]));
        assert_eq!(gone(&images, 50, Room { writing: 11, ..room(150, 1000) }), Ok(vec![10, 30]));
    }

    #[test]
    fn what_would_push_an_image_out_is_what_the_plan_does() {
        let images = [image(3, 30, false), image(1, 10, false), image(2, 20, true), image(4, 40, false)];
        let rooms = [(150, 1000), (150, 54), (150, 15), (100, 1000), (60, 3), (99, 1000)];
        for (budget, free) in rooms {
            let room = Room { budget, writing: 3, free, floor: 5 };
            let goes = |id, needed| match make_room(&images, needed, room) {
                Ok(removals) => Some(removals.iter().any(|removal| removal.id == id)),
                Err(_) => None,
            };
            for own in images.iter().filter(|image| !image.is_held) {
                let Some(Standing::InTurn { spares, .. }) = standing(&images, own.id, room) else { panic!("{own:?}") };
                match spares {
                    Some(spares) => {
                        assert_ne!(goes(own.id, spares), Some(true), "{own:?} {room:?} {spares}");
                        assert_ne!(goes(own.id, spares + 1), Some(false), "{own:?} {room:?} {spares}");
                    }
                    None => assert_ne!(goes(own.id, 0), Some(false), "{own:?} {room:?}"),
                }
            }
        }
        let room = Room { budget: 150, writing: 0, free: 1000, floor: 5 };
        let of = |number| standing(&images, image(number, 0, false).id, room);
        assert_eq!(of(2), Some(Standing::Held));
        assert_eq!(of(9), None);
        assert_eq!(of(1), Some(Standing::InTurn { before: 0, bytes: 0, spares: Some(50) }));
        assert_eq!(of(4), Some(Standing::InTurn { before: 2, bytes: 40, spares: Some(90) }));
    }

    #[test]
    fn what_is_held_stays_and_the_refusal_has_the_numbers() {
        let images = [image(1, 10, false), image(2, 20, true)];
        let room = Room { budget: 100, writing: 0, free: 60, floor: 5 };
        assert_eq!(gone(&images, 81, room), Err(NoRoom::Budget { needed: 81, budget: 100, held: 20 }));
        assert_eq!(gone(&images, 66, room), Err(NoRoom::Disk { needed: 66, free: 60, floor: 5, unheld: 10 }));
        assert_eq!(gone(&images, 65, room), Ok(vec![10]));
        let endless = Room { budget: u64::MAX, writing: 0, free: u64::MAX, floor: u64::MAX };
        assert_eq!(gone(&[], u64::MAX, endless), Ok(vec![]));
    }
}
