// Connections to Postgres that take a query before the earlier ones are answered, each a transaction of its own all the same.
const { Client } = require("pg");

const clients = Array.from({ length: 4 }, () => {
    const client = new Client({ connectionString: process.env.DATABASE_URL, pipeline: true });
    // Whoever runs this program starts it again, with new connections.
    client.on("error", (error) => {
        console.error(error);
        process.exit(1);
    });
    return client;
});

let turn = 0;

module.exports = {
    connect: () => Promise.all(clients.map((client) => client.connect())),
    query: (query) => clients[(turn = (turn + 1) % clients.length)].query(query),
};
