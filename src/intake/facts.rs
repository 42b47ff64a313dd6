//! What a server says of itself, and of what its data holds, before its stream is asked for.

use std::collections::BTreeMap;

use tracing::debug;

use super::{Config, Error, Shared};
use crate::command::{Catalog, Learned};
use crate::model::{Mark, SELF_KEY, Seen, SelfMark, SiteId, mark_key};
use crate::redis::{Connection, Info, OLDEST, Reply, connection_name};

/// What the side connection has learned.
pub(super) struct Facts {
    pub info: Info,
    /// How far our own history has come in the data; none when it is not in it.
    pub self_mark: Option<SelfMark>,
    /// How much of the peers' histories the data holds.
    pub marks: BTreeMap<SiteId, Mark>,
}

impl Facts {
    /// Asks the server; where a replica of it is read, that one says what its data holds.
    ///
    /// # Errors
    /// It cannot be reached, or cannot be used.
    pub(super) async fn learn(config: &Config, shared: &Shared) -> Result<Self, Error> {
        let name = connection_name(&config.site, "facts");
        let mut connection = Connection::open(&config.redis, &name).await?;
        let info = Info::fetch(&mut connection).await?;
        {
            let mut redis = shared.board.redis();
            redis.address = config.redis.address.to_string();
            redis.version.clone_from(&info.product);
            redis.role.clone_from(&info.role);
        }
        if info.version < OLDEST {
            return Err(Error::Unsupported(format!(
                "{} is too old: Tandem needs Redis {OLDEST} or later",
                info.product
            )));
        }
        if info.cluster {
            return Err(Error::Unsupported(
                "this Redis is a member of a cluster, which Tandem does not support yet; use a \
                 standalone server"
                    .to_owned(),
            ));
        }
        {
            let mut redis = shared.board.redis();
            redis.usable = true;
            redis.error = None;
        }
        learn_commands(&mut connection, &shared.catalog).await?;
        if let Some(replica) = &config.replica {
            // What it holds may be less than what the primary does, and it is what counts.
            connection = Connection::open(replica, &name).await?;
            if Info::fetch(&mut connection).await?.replid != info.replid {
                let address = connection.address().to_string();
                return Err(Error::Behind { address });
            }
        }
        let value = connection.ask(&[b"GET", SELF_KEY.as_bytes()]).await?;
        let self_mark = value.bytes().and_then(|v| SelfMark::parse(v).ok());
        let marks = marks(&mut connection, config).await?;
        Ok(Self {
            info,
            self_mark,
            marks,
        })
    }

    /// How far the marks stand.
    pub(super) fn seen(&self) -> Seen {
        let places = self.marks.iter();
        places.map(|(site, mark)| (site.clone(), mark.at)).collect()
    }

    /// A client may have removed marks, with their database, after they were read and before the place of
    /// the snapshot, which then does not hold what they say: of those that are gone by now, nothing is known.
    /// (Those that stand there may say more by now than the snapshot holds.)
    ///
    /// # Errors
    /// The server cannot be reached.
    pub(super) async fn look_again(&mut self, config: &Config) -> Result<(), Error> {
        let name = connection_name(&config.site, "facts");
        let mut connection = Connection::open(config.reading(), &name).await?;
        let there = marks(&mut connection, config).await?;
        self.marks.retain(|site, _| there.contains_key(site));
        Ok(())
    }
}

/// The marks of the peers that are there.
async fn marks(
    connection: &mut Connection,
    config: &Config,
) -> Result<BTreeMap<SiteId, Mark>, Error> {
    let mut marks = BTreeMap::new();
    for peer in &config.peers {
        let value = connection.ask(&[b"GET", mark_key(peer).as_bytes()]).await?;
        if let Some(mark) = value.bytes().and_then(|v| Mark::parse(v).ok()) {
            marks.insert(peer.clone(), mark);
        }
    }
    Ok(marks)
}

/// Learns of commands that are not in the table from the server. Without permission they count as
/// writes of every key.
async fn learn_commands(connection: &mut Connection, catalog: &Catalog) -> Result<(), Error> {
    let reply = connection.call(&[b"COMMAND"]).await?;
    if let Some(message) = reply.error() {
        debug!(
            error = message,
            "the server does not say which commands it has"
        );
        return Ok(());
    }
    catalog.learn(reply.array().into_iter().filter_map(learned));
    Ok(())
}

/// What COMMAND says of one: name, arity, flags, first key, last key, step; newer servers say more.
pub(super) fn learned(info: Reply) -> Option<(Vec<u8>, Learned)> {
    let fields = info.array();
    let number = |i: usize| fields.get(i).and_then(Reply::integer);
    let learned = Learned {
        first: usize::try_from(number(3)?).ok()?,
        last: number(4)?,
        step: usize::try_from(number(5)?).ok()?,
    };
    Some((fields.first()?.bytes()?.to_vec(), learned))
}
