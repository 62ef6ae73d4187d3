"""From a student's similarities to shares that mean something: fitted to a teacher's mass, held-out queries checked."""
