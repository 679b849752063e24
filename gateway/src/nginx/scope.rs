//! Which directives are in force in a block: its own, else those of the blocks around it.

use std::collections::BTreeMap;

use super::syntax::Directive;

/// Directives in force in a block.
pub struct Scope<'a> {
    parent: Option<&'a Self>,
    own: BTreeMap<&'a str, Vec<&'a Directive>>,
    /// Directives of the block's `if`s and `limit_except`s, which may or may not hold.
    pub conditional: Vec<&'a Directive>,
}

impl<'a> Scope<'a> {
    /// Sorts the directives of `block`, which stands in `parent`.
    pub fn new(parent: Option<&'a Self>, block: &'a [Directive]) -> Self {
        let mut own: BTreeMap<&str, Vec<&Directive>> = BTreeMap::new();
        let mut conditional = Vec::new();
        for directive in block {
            match directive.block.as_deref() {
                None => own.entry(directive.name.as_str()).or_default().push(directive),
                Some(inner) if matches!(directive.name.as_str(), "if" | "limit_except") => {
                    conditional.extend(inner.iter().filter(|inner| inner.block.is_none()));
                }
                Some(_) => {}
            }
        }
        Self { parent, own, conditional }
    }

    /// The directives of that name on the nearest level that has one.
    pub fn all(&self, name: &str) -> &[&'a Directive] {
        match (self.own.get(name), self.parent) {
            (Some(found), _) => found,
            (None, Some(parent)) => parent.all(name),
            (None, None) => &[],
        }
    }

    /// The last one on the nearest level that has one.
    pub fn last(&self, name: &str) -> Option<&'a Directive> {
        self.all(name).last().copied()
    }

    /// Those of this very block.
    pub fn own(&self, name: &str) -> &[&'a Directive] {
        self.own.get(name).map_or(&[], Vec::as_slice)
    }

    /// The block around this one.
    pub fn parent(&self) -> Option<&'a Self> {
        self.parent
    }
}
