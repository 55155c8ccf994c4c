//! What one component is made of: the model's own files, and files that a request adds to them. Every stage of a load
//! turns the [`Ingredients`] of one type into the `Ingredients` of the next, so that no stage carries lists side by side.

use std::hash::{Hash, Hasher};

/// What one component is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ingredients<T> {
    /// The model whose component is lent.
    pub own: T,
    /// The model whose configs are used, where the own one has none.
    pub base: Option<T>,
    /// The file whose tensors replace some of the own ones.
    pub overlay: Option<T>,
    /// The adapters, which are added to weights in this order.
    pub adapters: Vec<Adapter<T>>,
}

/// An adapter among ingredients.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Adapter<T> {
    /// The adapter.
    pub it: T,
    /// How much of it is wanted.
    pub scale: Scale,
}

/// The scale of an adapter: a finite number other than 0. At 1 the whole change is added, and at -1 it is subtracted.
#[derive(Debug, Clone, Copy)]
pub struct Scale(f64);

/// Which ingredient something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The model whose component is lent.
    Own,
    /// The model whose configs are used.
    Base,
    /// The file that is laid over.
    Overlay,
    /// The adapter of that position.
    Adapter(usize),
}

impl Scale {
    /// `None` for 0, infinities and NaN.
    #[must_use]
    pub fn new(scale: f64) -> Option<Self> {
        (scale.is_finite() && scale != 0.0).then_some(Self(scale))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for Scale {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Scale {}

impl Hash for Scale {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl<T> Ingredients<T> {
    /// A model and nothing else.
    pub fn only(own: T) -> Self {
        Self { own, base: None, overlay: None, adapters: Vec::new() }
    }

    /// All ingredients with their roles: own, base, overlay, adapters.
    pub fn iter(&self) -> impl Iterator<Item = (Role, &T)> {
        let adapters = self.adapters.iter().enumerate().map(|(number, adapter)| (Role::Adapter(number), &adapter.it));
        std::iter::once((Role::Own, &self.own))
            .chain(self.base.iter().map(|it| (Role::Base, it)))
            .chain(self.overlay.iter().map(|it| (Role::Overlay, it)))
            .chain(adapters)
    }

    /// The ingredient of that role.
    pub fn get(&self, role: Role) -> Option<&T> {
        match role {
            Role::Own => Some(&self.own),
            Role::Base => self.base.as_ref(),
            Role::Overlay => self.overlay.as_ref(),
            Role::Adapter(number) => self.adapters.get(number).map(|adapter| &adapter.it),
        }
    }

    /// The same ingredients, borrowed.
    pub fn as_ref(&self) -> Ingredients<&T> {
        Ingredients {
            own: &self.own,
            base: self.base.as_ref(),
            overlay: self.overlay.as_ref(),
            adapters: self.adapters.iter().map(|Adapter { it, scale }| Adapter { it, scale: *scale }).collect(),
        }
    }

    /// Turns each ingredient into that of the next stage, in the order of [`Self::iter`].
    pub fn map<U>(self, mut next: impl FnMut(Role, T) -> U) -> Ingredients<U> {
        let own = next(Role::Own, self.own);
        let base = self.base.map(|it| next(Role::Base, it));
        let overlay = self.overlay.map(|it| next(Role::Overlay, it));
        let adapter = |(number, Adapter { it, scale })| Adapter { it: next(Role::Adapter(number), it), scale };
        Ingredients { own, base, overlay, adapters: self.adapters.into_iter().enumerate().map(adapter).collect() }
    }

    /// Like [`Self::map`], up to the first error.
    ///
    /// # Errors
    /// When `next` fails for one of them.
    pub fn try_map<U, E>(self, mut next: impl FnMut(Role, T) -> Result<U, E>) -> Result<Ingredients<U>, E> {
        let own = next(Role::Own, self.own)?;
        let base = self.base.map(|it| next(Role::Base, it)).transpose()?;
        let overlay = self.overlay.map(|it| next(Role::Overlay, it)).transpose()?;
        let adapter = |(number, Adapter { it, scale })| Ok(Adapter { it: next(Role::Adapter(number), it)?, scale });
        let adapters = self.adapters.into_iter().enumerate().map(adapter).collect::<Result<_, E>>()?;
        Ok(Ingredients { own, base, overlay, adapters })
    }
}

impl<F, U, E> Ingredients<F>
where
    F: Future<Output = Result<U, E>>,
{
    /// Awaits what each ingredient becomes, one after the other, up to the first error.
    ///
    /// # Errors
    /// When one of them fails.
    pub async fn join(self) -> Result<Ingredients<U>, E> {
        let own = self.own.await?;
        let base = match self.base {
            Some(it) => Some(it.await?),
            None => None,
        };
        let overlay = match self.overlay {
            Some(it) => Some(it.await?),
            None => None,
        };
        let mut adapters = Vec::with_capacity(self.adapters.len());
        for Adapter { it, scale } in self.adapters {
            adapters.push(Adapter { it: it.await?, scale });
        }
        Ok(Ingredients { own, base, overlay, adapters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Ingredients<u8> {
        let adapter = |it, scale| Adapter { it, scale: Scale::new(scale).unwrap() };
        Ingredients { own: 1, base: Some(2), overlay: Some(3), adapters: vec![adapter(4, 0.5), adapter(5, -1.0)] }
    }

    #[test]
    fn every_stage_sees_all_ingredients_in_one_order() {
        let roles = [Role::Own, Role::Base, Role::Overlay, Role::Adapter(0), Role::Adapter(1)];
        assert_eq!(all().iter().collect::<Vec<_>>(), roles.into_iter().zip(&[1, 2, 3, 4, 5]).collect::<Vec<_>>());
        let doubled = all().try_map(|role, it| Ok::<_, ()>((role, 2 * it))).unwrap();
        let seen: Vec<_> = doubled.iter().map(|(role, &(told, it))| (role == told, it)).collect();
        assert_eq!(seen, [2, 4, 6, 8, 10].map(|it| (true, it)));
        assert!(roles.iter().zip(&[1, 2, 3, 4, 5]).all(|(&role, it)| all().get(role) == Some(it)));
        assert_eq!(doubled.adapters[1].scale.get(), -1.0);
        assert_eq!(all().as_ref().map(|_, it| *it), all());
        assert_eq!(Ingredients::only(1).iter().count(), 1);
    }

    #[test]
    fn the_first_error_ends_it() {
        let mut seen = Vec::new();
        let result = all().try_map(|_, it| {
            seen.push(it);
            if it == 3 { Err("three") } else { Ok(()) }
        });
        assert_eq!((result, seen), (Err("three"), vec![1, 2, 3]));
    }

    #[test]
    fn a_scale_is_a_number_other_than_0() {
        assert_eq!([0.0, -0.0, f64::NAN, f64::INFINITY].map(Scale::new), [None; 4]);
        assert_eq!(Scale::new(1.5).map(Scale::get), Some(1.5));
    }
}
