// Creates the table where it is missing.
const { readFileSync } = require("node:fs");
const { Client } = require("pg");

async function create() {
    const client = new Client({ connectionString: process.env.DATABASE_URL });
    await client.connect();
    await client.query(readFileSync("../table.sql", "utf8"));
    await client.end();
}

create();
