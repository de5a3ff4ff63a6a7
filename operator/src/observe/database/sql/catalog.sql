WITH expected(name, columns) AS (VALUES {expected}),
me AS (SELECT oid FROM pg_database WHERE datname = current_database()),
principal_table AS (SELECT c.oid, c.relowner, c.relnamespace, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.oid = to_regclass('principal') AND c.relkind IN ('r', 'p', 'v', 'm', 'f')){with}
SELECT {live}, json_build_object(
'server_version_num', current_setting('server_version_num')::int,
'encoding', current_setting('server_encoding'),
'max_connections', current_setting('max_connections')::int,
'reserved_connections', current_setting('superuser_reserved_connections')::int
  + coalesce(current_setting('reserved_connections', true)::int, 0),
'role_connections', (SELECT rolconnlimit FROM pg_roles WHERE rolname = {role} AND rolconnlimit >= 0 AND NOT rolsuper),
'database_connections', (SELECT datconnlimit FROM pg_database WHERE oid = (SELECT oid FROM me) AND datconnlimit >= 0),
'settings', {settings},
'schema', current_schema(), {unseen}
'can_create', {create},
'missing_schema', CASE WHEN current_schema() IS NULL THEN {missing} END,
'not_owned', {not_owned},
'principal', (SELECT nspname || '.principal' FROM principal_table),
'users_shown', (SELECT has_any_column_privilege(oid, 'SELECT') FROM principal_table),
'task_times', (SELECT json_agg(a.attname) FROM pg_attribute a WHERE a.attrelid = to_regclass('task_run')
  AND a.attname IN ('run_at', 'started_at', 'updated_at') AND NOT a.attisdropped AND a.atttypid = 'timestamptz'::regtype AND has_column_privilege(a.attrelid, a.attnum, 'SELECT')),
'results_shown', EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass('task_run') AND a.attname = 'result'
  AND NOT a.attisdropped AND a.atttypid IN ('jsonb'::regtype, 'json'::regtype) AND has_column_privilege(a.attrelid, a.attnum, 'SELECT')),
'ids_shown', EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass('task_run') AND a.attname = 'id'
  AND NOT a.attisdropped AND a.atttypid IN ('int8'::regtype, 'int4'::regtype) AND has_column_privilege(a.attrelid, a.attnum, 'SELECT')),
'tables', (SELECT json_agg(json_build_object('name', e.name,
  'complete', (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    AND a.attname::text = ANY (e.columns)) = cardinality(e.columns),
  'readable', (SELECT coalesce(bool_and(has_column_privilege(c.oid, a.attnum, 'SELECT')), true) FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname::text = ANY (e.columns))))
  FROM expected e JOIN pg_class c ON c.oid = to_regclass(e.name) AND c.relkind IN ('r', 'p', 'v', 'm', 'f'))
{parts})::text
