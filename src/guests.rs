//! Other users of this machine: whom the settings let in, and what they may do. Without such settings there are none.

/// A call that guests may make only if the settings grant it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Download a model.
    Pull,
    /// Hash a model's files, and move damaged ones aside.
    Verify,
    /// Drop what nobody holds.
    Evict,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pull, Self::Verify, Self::Evict];

    /// As the settings name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Verify => "verify",
            Self::Evict => "evict",
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The daemon's own user.
    Owner,
    /// Another user, whom the settings let in.
    Guest,
}

/// Whom the daemon serves.
#[derive(Debug, Clone, Default)]
pub struct Guests {
    /// Users, by their numbers.
    pub uids: Vec<u32>,
    /// Users whose process runs in one of these groups.
    pub gids: Vec<u32>,
    /// What they may do beyond reading.
    pub rights: Vec<Right>,
}

impl Guests {
    /// Whether anybody but the daemon's user is let in.
    #[must_use]
    pub fn are_there(&self) -> bool {
        !self.uids.is_empty() || !self.gids.is_empty()
    }

    /// Whether guests have a right.
    #[must_use]
    pub fn may(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }

    /// Who a process of this user and group is to a daemon of user `own`; `None`: nobody, who learns nothing.
    #[must_use]
    pub fn peer(&self, own: u32, uid: u32, gid: u32) -> Option<Peer> {
        if uid == own {
            return Some(Peer::Owner);
        }
        (self.uids.contains(&uid) || self.gids.contains(&gid)).then_some(Peer::Guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_a_guest_without_being_named() {
        let nobody = Guests::default();
        assert_eq!(nobody.peer(1000, 1000, 1), Some(Peer::Owner));
        assert_eq!(nobody.peer(1000, 0, 0), None, "root is another user, too");
        let some = Guests { uids: vec![7], gids: vec![50], rights: vec![Right::Pull] };
        assert_eq!(some.peer(1000, 7, 7), Some(Peer::Guest));
        assert_eq!(some.peer(1000, 8, 50), Some(Peer::Guest));
        assert_eq!(some.peer(1000, 50, 7), None, "a user is no group");
        assert!(some.may(Right::Pull) && !some.may(Right::Evict) && !nobody.are_there());
    }
}
