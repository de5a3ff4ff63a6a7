-- Tables of the metadata database: names and columns as the operator reads them, the rest kept small.
-- The arrow below is on purpose: Bytebase's schema holds text that only UTF-8 databases can store.
CREATE TABLE instance_change_history (
    id bigserial PRIMARY KEY,
    version text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE workspace (
    resource_id text PRIMARY KEY,
    deleted boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE principal (
    id bigserial PRIMARY KEY,
    deleted boolean NOT NULL DEFAULT false,
    email text NOT NULL UNIQUE,
    name text NOT NULL,
    password_hash text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE principal IS 'sign-up → principal';
CREATE TABLE policy (
    workspace text NOT NULL REFERENCES workspace (resource_id),
    type text NOT NULL,
    payload jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (workspace, type)
);
CREATE TABLE setting (
    name text NOT NULL,
    workspace text NOT NULL REFERENCES workspace (resource_id),
    value jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (workspace, name)
);
CREATE TABLE replica_heartbeat (
    replica_id text PRIMARY KEY,
    last_heartbeat timestamptz NOT NULL
);
CREATE TABLE task_run (
    id bigserial PRIMARY KEY,
    status text NOT NULL DEFAULT 'PENDING'
        CHECK (status IN ('PENDING', 'AVAILABLE', 'RUNNING', 'DONE', 'FAILED', 'CANCELED')),
    replica_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    run_at timestamptz,
    payload jsonb NOT NULL DEFAULT '{}',
    result jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX task_run_active ON task_run (status, id) WHERE status IN ('PENDING', 'AVAILABLE', 'RUNNING');
CREATE INDEX task_run_owner ON task_run (replica_id) WHERE status = 'RUNNING';
CREATE TABLE plan_check_run (
    id bigserial PRIMARY KEY,
    status text NOT NULL DEFAULT 'RUNNING' CHECK (status IN ('RUNNING', 'DONE', 'FAILED', 'CANCELED')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    result jsonb NOT NULL DEFAULT '{}'
);
