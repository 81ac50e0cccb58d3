// Makes code of a JSON Schema. Arguments: `typescript`, `go` or `java`; the schema. Prints the code.
'use strict';

const fs = require('node:fs');

async function typescript(schema) {
  const { compile } = await import('json-schema-to-typescript');
  return compile({ ...schema, title: 'Record' }, 'Record');
}

async function quicktyped(lang, schema) {
  const { quicktype, InputData, JSONSchemaInput } = require('quicktype-core');
  const source = new JSONSchemaInput(undefined);
  await source.addSource({ name: 'Record', schema: JSON.stringify(schema) });
  const inputData = new InputData();
  inputData.addInput(source);
  return (await quicktype({ inputData, lang })).lines.join('\n');
}

async function main([lang, path]) {
  const schema = JSON.parse(fs.readFileSync(path, 'utf8'));
  process.stdout.write(await (lang === 'typescript' ? typescript(schema) : quicktyped(lang, schema)));
}

main(process.argv.slice(2)).catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
