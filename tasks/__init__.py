"""The catalogue of every job: each task's name is `tasks.<function>`, whatever module it lives in."""
