//! The administrative commands: authentication, fail points, step-downs, and small queries of clients.

use std::time::{Duration, Instant};

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, doc};

use super::call::{ReceivedCommand, binary, integer, truth};
use super::cluster::{At, FakeDeployment};
use super::failpoint::FailPoint;
use super::failure::{CommandRefusal, code};
use super::member::{LoginState, ProcessState, Role};
use super::scram_server::{LoginStep, USERS_DATABASE};

/// How long a member that stepped down can't be elected by default, in seconds, as in mongod.
const STEP_DOWN_SECONDS: i64 = 60;

/// The maximum duration for which a step-down excludes a member from elections, in seconds.
const STEP_DOWN_SECONDS_MAX: i64 = 24 * 3600;

impl FakeDeployment {
    /// Refuses a user's authentications on all members, until [`admit_user`](Self::admit_user). Authenticated connections stay
    /// authenticated.
    #[cfg(any(test, feature = "internals"))]
    pub fn bar_user(&mut self, name: &str) {
        self.users.bar(name, true);
    }

    /// Accepts a user's authentications again.
    #[cfg(any(test, feature = "internals"))]
    pub fn admit_user(&mut self, name: &str) {
        self.users.bar(name, false);
    }

    pub(super) fn run_other(
        &mut self,
        at: At,
        database: &str,
        call: &mut ReceivedCommand,
        now: Instant,
    ) -> Result<Document, CommandRefusal> {
        match call.name.as_str() {
            "saslStart" => self.begin_login(at, database, &call.body),
            "saslContinue" => self.continue_login(at, &call.body),
            "logout" => {
                if let Some(connection) = self.connection(at) {
                    connection.login = LoginState::Anonymous;
                }
                Ok(doc! { "ok": 1.0 })
            }
            "buildInfo" | "buildinfo" => Ok(build_info()),
            "connectionStatus" => Ok(self.connection_status(at)),
            "configureFailPoint" => {
                let fail_point = FailPoint::parse(&call.body)?;
                if let Some(member) = self.members.get_mut(at.member) {
                    member.fail_point = fail_point;
                }
                Ok(doc! { "count": 0, "ok": 1.0 })
            }
            "replSetStepDown" => self.run_step_down(at, call, now),
            "replSetGetStatus" => self.status(at, now),
            "endSessions" => {
                for session in self.sessions.end(call) {
                    self.members.iter_mut().for_each(|member| member.cursors.end_session(session));
                }
                Ok(doc! { "ok": 1.0 })
            }
            // ping.
            _ => Ok(doc! { "ok": 1.0 }),
        }
    }

    /// Starts an authentication, from `saslStart` or from `speculativeAuthenticate`.
    pub(super) fn begin_login(&mut self, at: At, database: &str, command: &Document) -> Result<Document, CommandRefusal> {
        if database != USERS_DATABASE {
            return Err(CommandRefusal::new(code::AUTHENTICATION_FAILED, "Authentication failed."));
        }
        let mechanism = command.get_str("mechanism").unwrap_or_default();
        let options = command.get_document("options").ok();
        let skip_empty = options.and_then(|options| options.get("skipEmptyExchange")).is_some_and(truth);
        let payload = payload(command)?;
        let (conversation, reply) = self.users.begin(mechanism, &payload, skip_empty, &mut self.random)?;
        if let Some(connection) = self.connection(at) {
            connection.login = LoginState::Conversing(conversation);
        }
        Ok(sasl_reply(false, reply))
    }

    fn continue_login(&mut self, at: At, command: &Document) -> Result<Document, CommandRefusal> {
        let nothing = || CommandRefusal::new(code::ILLEGAL_OPERATION, "No SASL session state found");
        let connection = self.connection(at).ok_or_else(nothing)?;
        let LoginState::Conversing(conversation) = std::mem::replace(&mut connection.login, LoginState::Anonymous) else {
            return Err(nothing());
        };
        let step = conversation.proceed(&self.users, &payload(command)?)?;
        let (login, done, reply) = match step {
            LoginStep::Continue(conversation, reply) => (LoginState::Conversing(conversation), false, reply),
            LoginStep::Done(user, reply) => (LoginState::User(user), true, reply),
        };
        if let Some(connection) = self.connection(at) {
            connection.login = login;
        }
        Ok(sasl_reply(done, reply))
    }

    fn run_step_down(&mut self, at: At, call: &ReceivedCommand, now: Instant) -> Result<Document, CommandRefusal> {
        if !self.is_set() {
            return Err(CommandRefusal::new(code::NO_REPLICATION_ENABLED, "not running with --replSet"));
        }
        if self.primary() != Some(at.member) {
            return Err(CommandRefusal::new(code::NOT_WRITABLE_PRIMARY, "not primary so can't step down"));
        }
        let seconds = call.body.get("replSetStepDown").and_then(integer).filter(|seconds| *seconds > 0);
        let seconds = seconds.unwrap_or(STEP_DOWN_SECONDS).min(STEP_DOWN_SECONDS_MAX);
        let barred = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        self.step_down_primary(barred, call.body.get("force").is_some_and(truth), now)?;
        Ok(doc! { "ok": 1.0 })
    }

    fn connection_status(&mut self, at: At) -> Document {
        let user = self.user(at);
        let users: Vec<Bson> = user.into_iter().map(|name| doc! { "user": name, "db": USERS_DATABASE }.into()).collect();
        let roles: Vec<Bson> = users.iter().map(|_| doc! { "role": "root", "db": USERS_DATABASE }.into()).collect();
        doc! { "authInfo": { "authenticatedUsers": users, "authenticatedUserRoles": roles }, "ok": 1.0 }
    }

    fn status(&mut self, at: At, now: Instant) -> Result<Document, CommandRefusal> {
        let Some(set_name) = self.config.set_name.clone() else {
            return Err(CommandRefusal::new(code::NO_REPLICATION_ENABLED, "not running with --replSet"));
        };
        let state = |role: Role| match role {
            Role::Primary => (1, "PRIMARY"),
            Role::Secondary => (2, "SECONDARY"),
            Role::Arbiter => (7, "ARBITER"),
        };
        let members = self.members.iter().zip(&self.hosts).enumerate().map(|(index, (member, host))| {
            let (health, (state, text)) = match member.process {
                ProcessState::Current | ProcessState::Behind { .. } => (1.0, state(member.role)),
                ProcessState::Frozen | ProcessState::Stopped => (0.0, (8, "(not reachable/healthy)")),
            };
            let id = i32::try_from(index).unwrap_or(i32::MAX);
            let mut out = doc! { "_id": id, "name": host.as_str(), "health": health, "state": state, "stateStr": text };
            if index == at.member {
                out.insert("self", true);
            }
            Bson::from(out)
        });
        let members: Vec<Bson> = members.collect();
        let own = self.members.get(at.member).map_or(2, |member| state(member.role).0);
        let date = bson::DateTime::from_millis(self.time.wall_millis(now));
        Ok(doc! { "set": set_name, "date": date, "myState": own, "term": self.term, "members": members, "ok": 1.0 })
    }
}

fn build_info() -> Document {
    doc! {
        "version": "7.0.0",
        "versionArray": [7, 0, 0, 0],
        "modules": [],
        "bits": 64,
        "debug": false,
        "maxBsonObjectSize": i32::try_from(crate::wire::DOCUMENT_SIZE_MAX).unwrap_or(i32::MAX),
        "sandbox": true,
        "ok": 1.0,
    }
}

fn sasl_reply(done: bool, payload: Vec<u8>) -> Document {
    let payload = Binary { subtype: BinarySubtype::Generic, bytes: payload };
    doc! { "conversationId": 1, "done": done, "payload": payload, "ok": 1.0 }
}

fn payload(command: &Document) -> Result<Vec<u8>, CommandRefusal> {
    let payload = command.get("payload").and_then(binary).map(<[u8]>::to_vec);
    payload.ok_or_else(|| CommandRefusal::new(code::TYPE_MISMATCH, "payload is no binary value"))
}
