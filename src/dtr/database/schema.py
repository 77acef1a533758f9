"""The metadata: the source of truth for what exists (design 6).

Times are seconds since the epoch as doubles: one form on every engine, comparable in SQL, and free
of conversion on the hot paths. Names, tags and digests compare by byte ("ASCIIbetical" order).
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite gives 64-bit row ids to INTEGER PRIMARY KEY only; PostgreSQL needs BIGINT to get them.
Id = BigInteger().with_variant(Integer, "sqlite")
Name = String(255, collation="C").with_variant(String(255), "sqlite")
DigestText = String(135, collation="C").with_variant(String(135), "sqlite")

accounts = Table(
    "accounts",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("password_hash", Text),
    Column("is_admin", Boolean, nullable=False),
    Column("is_active", Boolean, nullable=False),
    # Counts changes of password and state: a token of an earlier epoch is void.
    Column("epoch", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    CheckConstraint("kind IN ('user', 'organization')", name="kind"),
    sqlite_autoincrement=True,
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Id, primary_key=True),
    Column("account_id", Id, ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("secret_hash", String(64), nullable=False, unique=True),
    Column("label", String(255), nullable=False),
    Column("level", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("last_used_at", Double),
    # A refresh token dies with the access token that it came from.
    Column("parent_id", Id, ForeignKey("tokens.id", ondelete="CASCADE")),
    CheckConstraint("kind IN ('access', 'refresh')", name="kind"),
    Index(None, "account_id"),
    Index(None, "parent_id"),
    Index(None, "expires_at"),
    sqlite_autoincrement=True,
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("private_key", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
)

failed_logins = Table(
    "failed_logins",
    metadata,
    # What is throttled: an account name from one address, an address, or an account name.
    Column("subject", String(255), primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("last_at", Double, nullable=False),
    Index(None, "last_at"),
)

repositories = Table(
    "repositories",
    metadata,
    Column("id", Id, primary_key=True),
    Column("namespace_id", Id, ForeignKey("accounts.id"), nullable=False),
    Column("name", Name, nullable=False, unique=True),
    Column("visibility", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    # Made by a push of which no manifest has come: it goes with the last upload, if nothing came.
    Column("is_provisional", Boolean, nullable=False, server_default=false()),
    CheckConstraint("visibility IN ('public', 'private')", name="visibility"),
    # The catalog, one reason after the other why an account may see a repository.
    Index(None, "namespace_id", "name"),
    Index(None, "visibility", "name"),
    sqlite_autoincrement=True,
)

grants = Table(
    "grants",
    metadata,
    Column("id", Id, primary_key=True),
    Column("account_id", Id, ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    # One of the two: a whole namespace, or one repository.
    Column("namespace_id", Id, ForeignKey("accounts.id", ondelete="CASCADE")),
    Column("repository_id", Id, ForeignKey("repositories.id", ondelete="CASCADE")),
    Column("level", Integer, nullable=False),
    CheckConstraint("(namespace_id IS NULL) <> (repository_id IS NULL)", name="target"),
    UniqueConstraint("account_id", "namespace_id"),
    UniqueConstraint("account_id", "repository_id"),
    Index(None, "namespace_id"),
    Index(None, "repository_id"),
    sqlite_autoincrement=True,
)

blobs = Table(
    "blobs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("digest", DigestText, nullable=False, unique=True),
    Column("size", BigInteger, nullable=False),
    # Where the bytes are. Every upload gets a key of its own, so that bytes which are being
    # deleted and bytes which are being pushed again never share a name.
    Column("storage_key", String(255), nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    CheckConstraint("state IN ('live', 'condemned')", name="state"),
    Index(None, "storage_key"),
    Index(
        "ix_blobs_condemned",
        "id",
        sqlite_where=text("state = 'condemned'"),
        postgresql_where=text("state = 'condemned'"),
    ),
    sqlite_autoincrement=True,
)

# Who has a blob's bytes, where replicas keep them on their own disks. A key names bytes only once,
# so a row without a blob of that key says nothing any more.
blob_holders = Table(
    "blob_holders",
    metadata,
    # Grows with each copy: whoever has seen all rows up to one looks at what came after it.
    Column("id", Id, primary_key=True),
    Column("storage_key", String(255), nullable=False),
    Column("replica_id", String(12), nullable=False),
    # When its bytes were last read and found to be right.
    Column("verified_at", Double, nullable=False),
    UniqueConstraint("storage_key", "replica_id"),
    Index(None, "replica_id", "verified_at"),
    sqlite_autoincrement=True,
)

repository_blobs = Table(
    "repository_blobs",
    metadata,
    Column("repository_id", Id, ForeignKey("repositories.id"), primary_key=True),
    Column("digest", DigestText, ForeignKey("blobs.digest"), primary_key=True),
    # When collection looks at this link next, and not before. Null: a manifest referred to the
    # blob when it last looked; whoever removes a reference sets it again.
    Column("review_at", Double),
    Index("ix_repository_blobs_digest", "digest"),
    Index(
        "ix_repository_blobs_review",
        "review_at",
        sqlite_where=text("review_at IS NOT NULL"),
        postgresql_where=text("review_at IS NOT NULL"),
    ),
    sqlite_with_rowid=False,
)

manifests = Table(
    "manifests",
    metadata,
    Column("id", Id, primary_key=True),
    Column("repository_id", Id, ForeignKey("repositories.id"), nullable=False),
    Column("digest", DigestText, nullable=False),
    Column("media_type", String(255), nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("subject", DigestText),
    Column("artifact_type", String(255), nullable=False),
    Column("annotations", Text, nullable=False),
    Column("pushed_at", Double, nullable=False),
    # As for repository_blobs: when collection asks whether anything reaches this manifest.
    Column("review_at", Double),
    # By which rules its edges were made (`registry.records.edges`); 0 by programs of schema 0003.
    Column("edge_rules", SmallInteger, nullable=False, server_default="0"),
    UniqueConstraint("repository_id", "digest"),
    Index(
        "ix_manifests_referrers",
        "repository_id",
        "subject",
        "digest",
        # Spares SQLite the way past the payload of each manifest that a page may have.
        "artifact_type",
        "size",
        sqlite_where=text("subject IS NOT NULL"),
        postgresql_where=text("subject IS NOT NULL"),
    ),
    Index(
        "ix_manifests_review",
        "review_at",
        sqlite_where=text("review_at IS NOT NULL"),
        postgresql_where=text("review_at IS NOT NULL"),
    ),
    Index(
        "ix_manifests_edges",
        "id",
        sqlite_where=text("edge_rules = 0"),
        postgresql_where=text("edge_rules = 0"),
    ),
    sqlite_autoincrement=True,
)

# What manifests refer to by digest, whatever is stored under it, now or later.
manifest_references = Table(
    "manifest_references",
    metadata,
    Column("manifest_id", Id, ForeignKey("manifests.id", ondelete="CASCADE"), primary_key=True),
    Column("digest", DigestText, primary_key=True),
    Column("repository_id", Id, nullable=False),
    # What the descriptor's media type says. Programs of schema 0003 went by it, and may run beside.
    Column("kind", String(8), nullable=False),
    CheckConstraint("kind IN ('blob', 'manifest')", name="kind"),
    Index("ix_manifest_references_digest", "repository_id", "digest", "kind"),
    sqlite_with_rowid=False,
)

tags = Table(
    "tags",
    metadata,
    Column("repository_id", Id, ForeignKey("repositories.id"), primary_key=True),
    Column("name", Name, primary_key=True),
    Column("manifest_id", Id, ForeignKey("manifests.id"), nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("account_id", Id),
    Index("ix_tags_manifest_id", "manifest_id"),
    sqlite_with_rowid=False,
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("repository_id", Id, ForeignKey("repositories.id"), nullable=False),
    Column("account_id", Id, nullable=False),
    Column("algorithm", String(16), nullable=False),
    # Bytes that are durable, and their digest where one process saw all of them.
    Column("offset", BigInteger, nullable=False),
    Column("digest", DigestText),
    # What the storage driver needs to go on from there, in words that only it knows.
    Column("storage_state", Text, nullable=False, server_default=""),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Index(None, "expires_at"),
    Index(None, "account_id"),
    Index(None, "repository_id"),
)

settings = Table(
    "settings",
    metadata,
    Column("key", String(255), primary_key=True),
    Column("value", Text, nullable=False),
)

# Which units of work are done, for as long as one may still ask whether its own commit took place.
finished_units = Table(
    "finished_units",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("finished_at", Double, nullable=False),
    Index(None, "finished_at"),
)

# How often content was pulled, apart from the rows that pushes lock. Merged in batches.
repository_pulls = Table(
    "repository_pulls",
    metadata,
    Column(
        "repository_id", Id, ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("pulls", BigInteger, nullable=False),
    Column("last_pulled_at", Double, nullable=False),
)

manifest_pulls = Table(
    "manifest_pulls",
    metadata,
    Column("manifest_id", Id, ForeignKey("manifests.id", ondelete="CASCADE"), primary_key=True),
    Column("pulls", BigInteger, nullable=False),
    Column("last_pulled_at", Double, nullable=False),
)

schedules = Table(
    "schedules",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("parameters", Text, nullable=False),
    # A cron expression in UTC, or `every N s`.
    Column("timing", String(255), nullable=False),
    Column("is_enabled", Boolean, nullable=False),
    Column("next_at", Double, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Id, primary_key=True),
    # Chosen by whoever asks, so that asking again after a lost answer asks only once.
    Column("key", String(64), nullable=False, unique=True),
    Column("kind", String(64), nullable=False),
    Column("parameters", Text, nullable=False),
    Column("state", String(16), nullable=False),
    # The schedule that asked for it; one such job is open at a time.
    Column("schedule", String(64)),
    Column("created_at", Double, nullable=False),
    Column("run_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("deadline_seconds", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("most_attempts", Integer, nullable=False),
    # Who runs it, or ran it last; a runner whose heartbeat stands still is taken for dead.
    Column("runner", String(255)),
    Column("heartbeat_at", Double),
    Column("is_cancel_requested", Boolean, nullable=False),
    Column("progress", Text, nullable=False),
    Column("error", Text, nullable=False),
    CheckConstraint(
        "state IN ('waiting', 'running', 'succeeded', 'failed', 'cancelled')", name="state"
    ),
    Index(
        "ix_jobs_waiting",
        "kind",
        "run_at",
        sqlite_where=text("state = 'waiting'"),
        postgresql_where=text("state = 'waiting'"),
    ),
    Index(
        "ix_jobs_running",
        "heartbeat_at",
        sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
    Index(
        "uq_jobs_open_schedule",
        "schedule",
        unique=True,
        sqlite_where=text("state IN ('waiting', 'running')"),
        postgresql_where=text("state IN ('waiting', 'running')"),
    ),
    Index(
        "ix_jobs_finished",
        "kind",
        "finished_at",
        sqlite_where=text("finished_at IS NOT NULL"),
        postgresql_where=text("finished_at IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)

job_logs = Table(
    "job_logs",
    metadata,
    Column("job_id", Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("level", String(16), nullable=False),
    Column("message", Text, nullable=False),
)
