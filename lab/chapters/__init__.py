"""A file a chapter of the notebook: functions of the Lab that answer with a table or a figure."""
