// The web server: a request's job gets its row, then its message.
const { randomUUID } = require("node:crypto");
const { Queue } = require("bullmq");
const { Redis } = require("ioredis");
const database = require("./database");

const app = require("fastify")();
const connection = new Redis(process.env.REDIS_URL, { enableAutoPipelining: true });
const queue = new Queue("predictions", { connection, defaultJobOptions: { attempts: 3 } });
queue.on("error", console.error);

const submission = {
    body: { type: "object", required: ["input"], properties: { input: {} } },
    response: { 202: { type: "object", properties: { id: { type: "string" } } } },
};

app.post("/predictions", { schema: submission }, async (request, reply) => {
    const id = randomUUID();
    const { input } = request.body;
    await database.query({
        name: "submit",
        text: "INSERT INTO jobs (id, status, input) VALUES ($1, 'queued', $2)",
        values: [id, JSON.stringify(input)],
    });
    await queue.add("predict", { id, input });
    return reply.code(202).send({ id });
});

app.get("/predictions/:id", async (request, reply) => {
    const { rows } = await database.query({
        name: "show",
        text: "SELECT id, status, output FROM jobs WHERE id = $1",
        values: [request.params.id],
    });
    return rows[0] ?? reply.code(404).send();
});

async function serve() {
    await database.connect();
    await app.listen({ port: Number(process.env.PORT), host: "127.0.0.1" });
    console.log("up");
}

serve();
