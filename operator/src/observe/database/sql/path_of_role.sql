SELECT set_config('search_path',
  replace(replace({path}, '"$user"', '$user'), '$user', quote_ident({worker})), true);
