SELECT coalesce(json_agg(json_build_array(r.id, r.n)), '[]')::text FROM (SELECT f.id, count(*) AS n
  FROM (SELECT t.replica_id::text AS id, t.result FROM task_run t
    WHERE {failed} AND {of_heard} OFFSET 0) f
  WHERE {says_so} GROUP BY 1 ORDER BY 1 LIMIT {rows}) r
