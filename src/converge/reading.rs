//! States that are being read to be sent.

use std::sync::Arc;

use super::table::{TAKERS, Table};
use crate::model::Cursor;

/// Keys whose state is being read. What is not finished is forgotten: it was not sent.
#[derive(Debug)]
pub struct Reading {
    table: Arc<Table>,
    keys: Vec<u128>,
    all: bool,
}

impl Reading {
    /// These keys are being read.
    pub async fn keys(table: &Arc<Table>, keys: Vec<u128>) -> Self {
        let _nobody_takes = table.taking.0.acquire_many(TAKERS).await;
        for hash in &keys {
            table.reads.entry(*hash).or_default().begin();
        }
        Self {
            table: Arc::clone(table),
            keys,
            all: false,
        }
    }

    /// A snapshot is being taken.
    pub async fn snapshot(table: &Arc<Table>) -> Self {
        let _nobody_takes = table.taking.0.acquire_many(TAKERS).await;
        table.update(|all| all.copied.begin());
        Self {
            table: Arc::clone(table),
            keys: Vec::new(),
            all: true,
        }
    }

    /// They were read here, and will be sent.
    pub fn finish(mut self, at: Cursor) -> Vec<u128> {
        self.end(Some(at))
    }

    fn end(&mut self, at: Option<Cursor>) -> Vec<u128> {
        if std::mem::take(&mut self.all) {
            self.table.update(|all| all.copied.end(at));
        }
        let keys = std::mem::take(&mut self.keys);
        for hash in &keys {
            if let Some(mut read) = self.table.reads.get_mut(hash) {
                read.end(at);
            }
            self.table
                .reads
                .remove_if(hash, |_, r| r.at() == Cursor::ZERO);
        }
        keys
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.end(None);
    }
}
