//! Orders of a tensor's dimensions in memory.

use serde::{Deserialize, Serialize};

/// Most dimensions of a tensor whose order changes; a kernel of a 3-D convolution has five.
const RANK_MAX: usize = 6;

/// An order of dimensions, counted from the order of the checkpoint: entry `d` is the dimension of the checkpoint that
/// lies at place `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Axes {
    rank: u8,
    at: [u8; RANK_MAX],
}

impl Axes {
    /// A kernel `[out, in, length]` with its input channels last.
    pub const CONV1D: Self = Self::new(&[0, 2, 1]);
    /// A kernel `[out, in, height, width]` (OIHW) with its input channels last (OHWI).
    pub const CONV2D: Self = Self::new(&[0, 2, 3, 1]);
    /// A kernel `[out, in, depth, height, width]` with its input channels last.
    pub const CONV3D: Self = Self::new(&[0, 2, 3, 4, 1]);
    /// A transposed kernel `[in, out, length]` with its output channels first and its input channels last.
    pub const CONV_TRANSPOSE1D: Self = Self::new(&[1, 2, 0]);
    /// A transposed kernel `[in, out, height, width]` with its output channels first and its input channels last.
    pub const CONV_TRANSPOSE2D: Self = Self::new(&[1, 2, 3, 0]);
    /// A transposed kernel `[in, out, depth, height, width]`, likewise.
    pub const CONV_TRANSPOSE3D: Self = Self::new(&[1, 2, 3, 4, 0]);

    /// The order `at`. Constants are checked when they are compiled.
    ///
    /// # Panics
    /// When `at` is no permutation of at most six dimensions.
    #[must_use]
    pub const fn new(at: &[u8]) -> Self {
        match Self::checked(at) {
            Some(axes) => axes,
            None => panic!("not a permutation"),
        }
    }

    const fn checked(at: &[u8]) -> Option<Self> {
        if at.len() > RANK_MAX {
            return None;
        }
        let (mut axes, mut seen, mut place) = ([0; RANK_MAX], 0u8, 0);
        while place < at.len() {
            let dimension = at[place];
            if dimension as usize >= at.len() || seen & (1 << dimension) != 0 {
                return None;
            }
            seen |= 1 << dimension;
            axes[place] = dimension;
            place += 1;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most RANK_MAX")]
        Some(Self { rank: at.len() as u8, at: axes })
    }

    /// The order of the checkpoint itself, for `rank` dimensions; `None` for more dimensions than an order may have.
    #[must_use]
    pub fn identity(rank: usize) -> Option<Self> {
        let at: Vec<u8> = (0u8..).take(rank).collect();
        Self::checked(&at)
    }

    /// Number of dimensions.
    #[must_use]
    pub fn rank(self) -> usize {
        usize::from(self.rank)
    }

    /// For each place, the dimension of the checkpoint that lies there.
    #[must_use]
    pub fn places(&self) -> &[u8] {
        &self.at[..self.rank()]
    }

    /// Dimensions in this order; `None` when `shape` has another number of dimensions.
    #[must_use]
    pub fn ordered(self, shape: &[u64]) -> Option<Vec<u64>> {
        (shape.len() == self.rank()).then(|| self.places().iter().map(|&place| shape[usize::from(place)]).collect())
    }

    /// The order that undoes this one.
    #[must_use]
    pub fn inverse(self) -> Self {
        let mut inverse = self;
        for (place, &dimension) in (0u8..).zip(self.places()) {
            inverse.at[usize::from(dimension)] = place;
        }
        inverse
    }

    /// What takes bytes in the order `from` to this one: entry `d` is the place in `from` of what lies at place `d`.
    /// `None` for orders of different rank.
    #[must_use]
    pub fn after(self, from: Self) -> Option<Self> {
        if self.rank != from.rank {
            return None;
        }
        let places = from.inverse();
        let at: Vec<u8> = self.places().iter().map(|&dimension| places.at[usize::from(dimension)]).collect();
        Self::checked(&at)
    }

    /// Whether a tensor of this shape, before the change, has other bytes after it. Dimensions of one element may go
    /// anywhere; an empty tensor has no bytes.
    #[must_use]
    pub fn moves_bytes(self, shape: &[u64]) -> bool {
        let long = |place: &u8| shape.get(usize::from(*place)).is_some_and(|&length| length != 1);
        let order: Vec<u8> = self.places().iter().copied().filter(long).collect();
        !order.is_sorted() && !shape.contains(&0)
    }
}

impl TryFrom<Vec<u8>> for Axes {
    type Error = &'static str;

    fn try_from(at: Vec<u8>) -> Result<Self, Self::Error> {
        Self::checked(&at).ok_or("not an order of dimensions")
    }
}

impl From<Axes> for Vec<u8> {
    fn from(axes: Axes) -> Self {
        axes.places().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_is_undone_by_its_inverse() {
        let all = [
            Axes::CONV1D,
            Axes::CONV2D,
            Axes::CONV3D,
            Axes::CONV_TRANSPOSE1D,
            Axes::CONV_TRANSPOSE2D,
            Axes::CONV_TRANSPOSE3D,
        ];
        for axes in all {
            let shape: Vec<u64> = (2..).take(axes.rank()).collect();
            let ordered = axes.ordered(&shape).unwrap();
            assert_eq!(axes.inverse().ordered(&ordered).unwrap(), shape);
            let identity = Axes::identity(axes.rank()).unwrap();
            assert_eq!(axes.after(identity), Some(axes));
            assert_eq!(identity.after(axes), Some(axes.inverse()));
            assert_eq!(axes.after(axes), Some(identity));
            assert!(axes.moves_bytes(&shape) && !identity.moves_bytes(&shape));
        }
        assert_eq!(Axes::CONV3D.after(Axes::CONV2D), None);
        assert_eq!(Axes::CONV2D.ordered(&[1, 2]), None);
    }

    #[test]
    fn dimensions_of_one_element_move_no_bytes() {
        let cases: [(Axes, &[u64], bool); 7] = [
            (Axes::CONV2D, &[4, 3, 1, 1], false),
            (Axes::CONV2D, &[4, 1, 3, 3], false),
            (Axes::CONV2D, &[1, 4, 3, 1], true),
            (Axes::CONV1D, &[4, 1, 7], false),
            (Axes::CONV1D, &[4, 2, 7], true),
            (Axes::CONV_TRANSPOSE2D, &[1, 4, 3, 3], false),
            (Axes::CONV2D, &[0, 2, 3, 3], false),
        ];
        for (axes, shape, moves) in cases {
            assert_eq!(axes.moves_bytes(shape), moves, "{axes:?} of {shape:?}");
        }
    }

    #[test]
    fn only_permutations_are_read() {
        assert_eq!(serde_json::to_string(&Axes::CONV2D).unwrap(), "[0,2,3,1]");
        assert_eq!(serde_json::from_str::<Axes>("[0,2,3,1]").unwrap(), Axes::CONV2D);
        for other in ["[0,0]", "[1,2]", "[0,1,2,3,4,5,6]", "[9]"] {
            assert!(serde_json::from_str::<Axes>(other).is_err(), "{other}");
        }
    }
}
