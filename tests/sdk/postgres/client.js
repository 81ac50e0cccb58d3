'use strict';
// PostgreSQL, compiled for Node: FOLDER. Runs each TABLE.sql of it, puts the rows of TABLE.jsonl
// (objects of its columns, one a line) into the table, twice, and writes TABLE.out: how many were new,
// and then what is there. A TABLE without rows is a view.

const fs = require('node:fs');
const path = require('node:path');
const { PGlite } = require('@electric-sql/pglite');

async function insert(database, table, lines) {
  const statement =
    `INSERT INTO "${table}" SELECT * FROM json_populate_recordset(NULL::"${table}", $1) ` +
    'ON CONFLICT DO NOTHING';
  return (await database.query(statement, [`[${lines.join(',')}]`])).affectedRows;
}

async function main([folder]) {
  const database = await PGlite.create();
  for (const file of fs.readdirSync(folder).filter((name) => name.endsWith('.sql'))) {
    const table = path.basename(file, '.sql');
    await database.exec(fs.readFileSync(path.join(folder, file), 'utf8'));
    const rows = path.join(folder, `${table}.jsonl`);
    const lines = fs.existsSync(rows) ? fs.readFileSync(rows, 'utf8').split('\n') : [];
    const made = [];
    for (let time = 0; lines.length && time < 2; time += 1) {
      made.push(await insert(database, table, lines));
    }
    const select = `SELECT row_to_json(made)::text AS row FROM "${table}" made`;
    const found = (await database.query(select)).rows.map(({ row }) => row);
    fs.writeFileSync(path.join(folder, `${table}.out`), [made.join(' '), ...found].join('\n'));
  }
  await database.close();
}

main(process.argv.slice(2));
