SELECT known, available, owner, started FROM (SELECT NOT EXISTS (SELECT FROM pg_attribute a, LATERAL (SELECT enumlabel::text AS word FROM pg_enum
  WHERE enumtypid = a.atttypid UNION ALL SELECT found[1] FROM pg_constraint c,
  regexp_matches(pg_get_constraintdef(c.oid), '''([^'']+)''', 'g') m(found)
  WHERE c.conrelid = a.attrelid AND c.contype = 'c' AND c.conkey = ARRAY[a.attnum]) s
  WHERE a.attrelid = to_regclass('task_run') AND a.attname = 'status' AND NOT a.attisdropped
  AND s.word NOT IN ('PENDING', 'AVAILABLE', 'RUNNING', 'DONE', 'FAILED', 'CANCELED')) AS known,
  (SELECT count(*) FROM task_run WHERE status = 'AVAILABLE') AS available) k
  LEFT JOIN (SELECT replica_id::text AS owner, coalesce(extract(epoch FROM started_at), 0)::float8 AS started
    FROM task_run WHERE status = 'RUNNING' AND replica_id IS NOT NULL) r ON true
