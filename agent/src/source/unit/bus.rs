//! systemd on the message bus: the few calls and signals of org.freedesktop.systemd1(5) that are needed.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use zbus::message::Type;
use zbus::{Connection, Message, MessageStream, ObjectPath, OwnedObjectPath, connection};

use super::state::{self, Properties};
use crate::clock::Moment;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const BUS: &str = "org.freedesktop.DBus";

/// A systemd that does not answer for so long is stuck; D-Bus itself gives up after this time.
const ANSWER_MAX: Duration = Duration::from_secs(25);

/// Messages that zbus may hold back for us: all signals of a boot's worth of units at once.
const MESSAGES_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Signals that may wait while a call is under way. Beyond this the session ends and everything is listed anew.
pub(super) const SIGNALS_MAX: usize = 8192;

/// Why systemd cannot be seen.
#[derive(Debug, thiserror::Error)]
pub(super) enum BusError {
    /// Neither the message bus nor systemd's own socket could be reached.
    #[error("cannot reach systemd over D-Bus")]
    Connect(#[source] zbus::Error),
    /// A call was refused or not answered.
    #[error("systemd did not answer {method}")]
    Call {
        /// Name of the method.
        method: &'static str,
        /// What came instead.
        source: zbus::Error,
    },
    /// The connection ended, or systemd executed itself anew.
    #[error("the connection to systemd ended")]
    Ended,
    /// More signals than [`SIGNALS_MAX`] waited.
    #[error("signals of systemd came faster than they could be read")]
    Overrun,
}

/// A signal of systemd that matters here.
#[derive(Debug)]
pub(super) enum Signal {
    /// Properties of a service or socket changed.
    Changed { path: String, interface: String, properties: Properties },
    /// A job was queued.
    JobNew { id: u32, job_path: OwnedObjectPath, unit: String },
    /// A job is over.
    JobRemoved { id: u32, unit: String, result: String },
    /// systemd forgot a unit.
    UnitRemoved { unit: String },
    /// systemd begins to read all unit files anew. Until it is done it forgets all units and finds them again.
    Reloading,
    /// Unit files were enabled, disabled, masked, or all were read anew.
    FilesChanged,
}

/// One line of `ListUnits`.
#[derive(Debug)]
pub(super) struct Listed {
    /// "api.service"
    pub(super) name: String,
    /// loaded, masked, not-found, ...
    pub(super) load: String,
    /// active, inactive, failed, ...
    pub(super) active: String,
    /// Object path of the unit.
    pub(super) path: String,
}

/// A connection to systemd.
#[derive(Debug)]
pub(super) struct Bus {
    connection: Connection,
    /// Unique name of systemd on the message bus: only its signals count, since any user may send look-alikes. `None`
    /// on systemd's own socket, where nobody else speaks.
    owner: Option<String>,
}

impl Bus {
    /// Connects through the message bus, or, where none is and we are root, to systemd itself.
    pub(super) async fn connect(root: &Path) -> Result<Self, BusError> {
        let bus = root.join("run/dbus/system_bus_socket");
        let own = root.join("run/systemd/private");
        let address = |path: &Path| format!("unix:path={}", path.display());
        if bus.exists() || !own.exists() {
            let connection = connection::Builder::address(address(&bus).as_str())
                .method_timeout(ANSWER_MAX)
                .max_queued(MESSAGES_MAX)
                .build()
                .await
                .map_err(BusError::Connect)?;
            let mut bus = Self { connection, owner: None };
            bus.owner = Some(bus.subscribe_on_bus().await?);
            return Ok(bus);
        }
        let connection = connection::Builder::address(address(&own).as_str())
            .p2p()
            .method_timeout(ANSWER_MAX)
            .max_queued(MESSAGES_MAX)
            .build()
            .await
            .map_err(BusError::Connect)?;
        Ok(Self { connection, owner: None })
    }

    /// Asks the bus for systemd's signals, and systemd to send them. Gives back systemd's unique name.
    async fn subscribe_on_bus(&self) -> Result<String, BusError> {
        let rules = [
            format!("type='signal',sender='{SYSTEMD}',path_namespace='{MANAGER_PATH}'"),
            format!("type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{SYSTEMD}'"),
        ];
        for rule in rules {
            self.bus_call("AddMatch", &rule).await?;
        }
        let reply = self.bus_call("GetNameOwner", &SYSTEMD.to_owned()).await?;
        let call_failed = |source| BusError::Call { method: "GetNameOwner", source };
        let owner: String = reply.body().deserialize().map_err(call_failed)?;
        self.manager("Subscribe", &()).await?;
        Ok(owner)
    }

    async fn bus_call(&self, method: &'static str, body: &String) -> Result<Message, BusError> {
        self.connection
            .call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), method, body)
            .await
            .map_err(|source| BusError::Call { method, source })
    }

    async fn manager<B>(&self, method: &'static str, body: &B) -> Result<Message, BusError>
    where
        B: serde::Serialize + zbus::zvariant::DynamicType,
    {
        self.connection
            .call_method(Some(SYSTEMD), MANAGER_PATH, Some(MANAGER), method, body)
            .await
            .map_err(|source| BusError::Call { method, source })
    }

    /// All service and socket units that systemd knows now.
    pub(super) async fn list_units(&self) -> Result<Vec<Listed>, BusError> {
        type Row = (
            String,
            String,
            String,
            String,
            String,
            String,
            OwnedObjectPath,
            u32,
            String,
            OwnedObjectPath,
        );
        let reply = self.manager("ListUnits", &()).await?;
        let rows: Vec<Row> = reply
            .body()
            .deserialize()
            .map_err(|source| BusError::Call { method: "ListUnits", source })?;
        let listed = rows.into_iter().filter(|row| state::is_of_interest(&row.0));
        Ok(listed
            .map(|row| Listed {
                name: row.0,
                load: row.2,
                active: row.3,
                path: row.6.as_str().to_owned(),
            })
            .collect())
    }

    /// State of each unit file on disk, by name, and whether an administrator masked it: distributions mask units
    /// too, below /usr/lib, and those mean nothing.
    pub(super) async fn unit_files(&self) -> Result<HashMap<String, (String, bool)>, BusError> {
        let reply = self.manager("ListUnitFiles", &()).await?;
        let rows: Vec<(String, String)> = reply
            .body()
            .deserialize()
            .map_err(|source| BusError::Call { method: "ListUnitFiles", source })?;
        let named = rows.into_iter().filter_map(|(path, state)| {
            let name = path.rsplit('/').next()?.to_owned();
            let by_admin = path.starts_with("/etc/") || path.starts_with("/run/");
            let masked = by_admin && state.starts_with("masked");
            state::is_of_interest(&name).then_some((name, (state, masked)))
        });
        Ok(named.collect())
    }

    /// State of one unit's file; `None` when systemd finds none.
    pub(super) async fn unit_file_state(&self, unit: &str) -> Option<String> {
        let reply = self.manager("GetUnitFileState", &unit).await.ok()?;
        reply.body().deserialize().ok()
    }

    /// All properties of one interface of an object.
    pub(super) async fn properties(
        &self,
        path: &str,
        interface: &str,
    ) -> Result<Properties, BusError> {
        let failed = |source| BusError::Call { method: "GetAll", source };
        let path = ObjectPath::try_from(path).map_err(failed)?;
        let reply = self
            .connection
            .call_method(Some(SYSTEMD), path, Some(PROPERTIES), "GetAll", &interface)
            .await
            .map_err(failed)?;
        reply.body().deserialize().map_err(failed)
    }

    /// Hands systemd's signals on, with the moment at which they came, until the connection ends. Must run all the
    /// time: zbus stalls without.
    pub(super) async fn pump(&self, signals: mpsc::Sender<(Moment, Signal)>) -> BusError {
        let mut messages = MessageStream::from(&self.connection);
        while let Some(message) = messages.next().await {
            let Ok(message) = message else { return BusError::Ended };
            let Some(decoded) = self.decode(&message) else { continue };
            let Decoded::Signal(signal) = decoded else { return BusError::Ended };
            if signals.try_send((Moment::now(), signal)).is_err() {
                return BusError::Overrun;
            }
        }
        BusError::Ended
    }

    fn decode(&self, message: &Message) -> Option<Decoded> {
        if message.message_type() != Type::Signal {
            return None;
        }
        let header = message.header();
        let sender = header.sender().map(|name| name.as_str());
        let member = header.member()?.as_str();
        if self.owner.is_some() && sender == Some(BUS) {
            return (member == "NameOwnerChanged").then_some(Decoded::OwnerChanged);
        }
        if self.owner.as_deref() != sender && self.owner.is_some() {
            return None;
        }
        decode_signal(header.path()?.as_str(), member, message).map(Decoded::Signal)
    }
}

enum Decoded {
    Signal(Signal),
    OwnerChanged,
}

fn decode_signal(path: &str, member: &str, message: &Message) -> Option<Signal> {
    let body = message.body();
    match member {
        "PropertiesChanged" => {
            // Devices, mounts and slices change far more often than services: look at the name first.
            if !path.ends_with("_2eservice") && !path.ends_with("_2esocket") {
                return None;
            }
            let (interface, properties, _invalidated): (String, Properties, Vec<String>) =
                body.deserialize().ok()?;
            Some(Signal::Changed { path: path.to_owned(), interface, properties })
        }
        "JobNew" => {
            let (id, job_path, unit): (u32, OwnedObjectPath, String) = body.deserialize().ok()?;
            state::is_of_interest(&unit).then_some(Signal::JobNew { id, job_path, unit })
        }
        "JobRemoved" => {
            let (id, _path, unit, result): (u32, OwnedObjectPath, String, String) =
                body.deserialize().ok()?;
            state::is_of_interest(&unit).then_some(Signal::JobRemoved { id, unit, result })
        }
        "UnitRemoved" => {
            let (unit, _path): (String, OwnedObjectPath) = body.deserialize().ok()?;
            state::is_of_interest(&unit).then_some(Signal::UnitRemoved { unit })
        }
        "UnitFilesChanged" => Some(Signal::FilesChanged),
        "Reloading" => {
            let begins: bool = body.deserialize().ok()?;
            Some(if begins { Signal::Reloading } else { Signal::FilesChanged })
        }
        _ => None,
    }
}
