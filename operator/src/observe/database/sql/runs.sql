, 'runs', (SELECT json_agg(json_build_array(r.owner, r.ids)) FROM (SELECT replica_id::text AS owner, (array_agg(id ORDER BY id))[1:{runs}] AS ids
  FROM task_run WHERE status::text = 'RUNNING' AND replica_id IS NOT NULL GROUP BY 1 ORDER BY 1 LIMIT {rows}) r)
