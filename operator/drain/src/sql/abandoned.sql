SELECT f.owner, f.started FROM (SELECT t.replica_id::text AS owner,
    coalesce(extract(epoch FROM t.started_at), 0)::float8 AS started, t.result
    FROM task_run t WHERE {failed}
    AND (t.replica_id::text = $1 OR {of_heard}) OFFSET 0) f
  WHERE {says_so}
