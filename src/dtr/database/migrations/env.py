"""Run by Alembic: hand it the connection that `dtr.database.migrate` opened."""

from alembic import context

from dtr.database.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
