//! Facts between their arrival and their commit: one commit at a time, and what arrives meanwhile in the next.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use super::hello::Refusal;
use crate::store::{Append, Store, StoreError};

/// Facts that an agent may have under way: 2 s at 2,000 facts/s, some 1 MiB.
pub(super) const CREDIT_FACTS: u32 = 4096;
/// Facts between their arrival and their commit.
#[derive(Default)]
pub(super) struct Pending {
    waiting: VecDeque<Append>,
    waiting_facts: usize,
    commit: Option<Commit>,
}

/// A commit under way, with the boot that it is for.
type Commit = Pin<Box<dyn Future<Output = (String, Result<u64, StoreError>)> + Send>>;

impl Pending {
    /// Takes what arrived; what is of one boot goes into one commit.
    pub(super) fn push(&mut self, append: Append) -> Result<(), Refusal> {
        self.waiting_facts += append.facts.len();
        if self.waiting_facts > CREDIT_FACTS as usize {
            let what = format!("more than the credit of {CREDIT_FACTS} facts is under way");
            return Err(Refusal::Bound(what));
        }
        match self.waiting.back_mut() {
            Some(last) if last.boot == append.boot => {
                last.facts.extend(append.facts);
                last.epoch = append.epoch;
                last.heard_us = append.heard_us;
            }
            _ => self.waiting.push_back(append),
        }
        Ok(())
    }

    /// Begins the next commit, unless one is under way.
    pub(super) fn begin_commit(&mut self, store: &Store) {
        if self.commit.is_some() {
            return;
        }
        self.commit = self.waiting.pop_front().map(|append| {
            self.waiting_facts -= append.facts.len();
            let (boot, store) = (append.boot.clone(), store.clone());
            Box::pin(async move { (boot, store.append(append).await) }) as Commit
        });
    }

    /// Waits until everything is stored.
    pub(super) async fn drain(&mut self, store: &Store) -> Result<(), StoreError> {
        while self.commit.is_some() {
            let (_boot, stored) = self.committed().await;
            stored?;
            self.begin_commit(store);
        }
        Ok(())
    }

    /// Waits for the commit that is under way, for ever if there is none: its boot, and the highest
    /// position that is stored.
    pub(super) async fn committed(&mut self) -> (String, Result<u64, StoreError>) {
        let Some(future) = &mut self.commit else { return std::future::pending().await };
        let done = future.await;
        self.commit = None;
        done
    }
}
